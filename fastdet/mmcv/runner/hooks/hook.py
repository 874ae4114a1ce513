"""The stages of a training at which hooks run, as in ``mmcv.runner.hooks.hook``."""

from __future__ import annotations

from typing import Any

from fastdet.utils import Registry

from ...utils.misc import is_method_overridden

__all__ = ["HOOKS", "Hook"]

HOOKS = Registry("hook", scope="mmcv")


class Hook:
    """Does something at stages of a training; a subclass overrides the methods of its stages.

    ``before_epoch``, ``after_epoch``, ``before_iter`` and ``after_iter`` are for training and
    validation both.
    """

    stages = ("before_run", "before_train_epoch", "before_train_iter", "after_train_iter",
              "after_train_epoch", "before_val_epoch", "before_val_iter", "after_val_iter",
              "after_val_epoch", "after_run")

    def before_run(self, runner: Any) -> None:
        """Before the first epoch."""

    def after_run(self, runner: Any) -> None:
        """After the last epoch."""

    def before_epoch(self, runner: Any) -> None:
        """Before an epoch of either kind."""

    def after_epoch(self, runner: Any) -> None:
        """After an epoch of either kind."""

    def before_iter(self, runner: Any) -> None:
        """Before an iteration of either kind."""

    def after_iter(self, runner: Any) -> None:
        """After an iteration of either kind."""

    def before_train_epoch(self, runner: Any) -> None:
        """Before an epoch of training."""
        self.before_epoch(runner)

    def before_val_epoch(self, runner: Any) -> None:
        """Before an epoch of validation."""
        self.before_epoch(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """After an epoch of training."""
        self.after_epoch(runner)

    def after_val_epoch(self, runner: Any) -> None:
        """After an epoch of validation."""
        self.after_epoch(runner)

    def before_train_iter(self, runner: Any) -> None:
        """Before an iteration of training."""
        self.before_iter(runner)

    def before_val_iter(self, runner: Any) -> None:
        """Before an iteration of validation."""
        self.before_iter(runner)

    def after_train_iter(self, runner: Any) -> None:
        """After an iteration of training; the loss is in ``runner.outputs``."""
        self.after_iter(runner)

    def after_val_iter(self, runner: Any) -> None:
        """After an iteration of validation."""
        self.after_iter(runner)

    def every_n_epochs(self, runner: Any, n: int) -> bool:
        """Whether this epoch is a multiple of ``n``; never for ``n <= 0``."""
        return n > 0 and (runner.epoch + 1) % n == 0

    def every_n_inner_iters(self, runner: Any, n: int) -> bool:
        """Whether this iteration of the epoch is a multiple of ``n``."""
        return n > 0 and (runner.inner_iter + 1) % n == 0

    def every_n_iters(self, runner: Any, n: int) -> bool:
        """Whether this iteration of the training is a multiple of ``n``."""
        return n > 0 and (runner.iter + 1) % n == 0

    def end_of_epoch(self, runner: Any) -> bool:
        """Whether this is the last iteration of the epoch."""
        return runner.inner_iter + 1 == len(runner.data_loader)

    def is_last_epoch(self, runner: Any) -> bool:
        """Whether this is the last epoch."""
        return runner.epoch + 1 == runner._max_epochs

    def is_last_iter(self, runner: Any) -> bool:
        """Whether this is the last iteration."""
        return runner.iter + 1 == runner._max_iters

    def get_triggered_stages(self) -> list[str]:
        """The stages at which this hook does something, in their order."""

        def does(stage: str) -> bool:
            both = stage.replace("train_", "").replace("val_", "")
            return any(is_method_overridden(method, Hook, self) for method in {stage, both})

        return [stage for stage in Hook.stages if does(stage)]
