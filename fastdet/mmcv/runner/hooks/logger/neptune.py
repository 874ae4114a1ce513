"""Logs for Neptune, as in ``mmcv.runner.hooks.logger.neptune``."""

from __future__ import annotations

from typing import Any

from ....utils.misc import optional_import
from ...dist_utils import master_only
from ..hook import HOOKS
from .base import LoggerHook

__all__ = ["NeptuneLoggerHook"]


@HOOKS.register_module()
class NeptuneLoggerHook(LoggerHook):
    """Logs to Neptune; needs the package ``neptune`` (1.0 or later).

    Args:
        init_kwargs: arguments of ``neptune.init_run``.
        interval, ignore_last, reset_flag, by_epoch: see :class:`LoggerHook`.
        with_step: give the iteration as the step; otherwise as the metric ``global_step``.
    """

    def __init__(self, init_kwargs: dict[str, Any] | None = None, interval: int = 10,
                 ignore_last: bool = True, reset_flag: bool = True, with_step: bool = True,
                 by_epoch: bool = True) -> None:
        super().__init__(interval, ignore_last, reset_flag, by_epoch)
        self.import_neptune()
        self.init_kwargs = init_kwargs
        self.with_step = with_step

    def import_neptune(self) -> None:
        """Import the package."""
        self.neptune = optional_import("neptune", "NeptuneLoggerHook")

    @master_only
    def before_run(self, runner: Any) -> None:
        """Start a run."""
        super().before_run(runner)
        self.run = self.neptune.init_run(**(self.init_kwargs or {}))

    @master_only
    def log(self, runner: Any) -> None:
        """Log numbers at this iteration."""
        tags = self.get_loggable_tags(runner)
        step = self.get_iter(runner)
        if tags and not self.with_step:
            tags["global_step"] = step
        for tag, value in tags.items():
            self.run[tag].append(value, **({"step": step} if self.with_step else {}))

    @master_only
    def after_run(self, runner: Any) -> None:
        """End the run."""
        self.run.stop()
