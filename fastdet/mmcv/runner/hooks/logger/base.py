"""What loggers share, as in ``mmcv.runner.hooks.logger.base``."""

from __future__ import annotations

import numbers
from abc import ABCMeta, abstractmethod
from typing import Any

import numpy as np
import torch

from ..hook import Hook

__all__ = ["LoggerHook"]


class LoggerHook(Hook, metaclass=ABCMeta):
    """Shows what is in ``runner.log_buffer``; a subclass says where in :meth:`log`.

    Args:
        interval: iterations between two logs, whose mean they show.
        ignore_last: leave out what is left at the end of an epoch.
        reset_flag: empty the buffer's output after a log; the last logger always does.
        by_epoch: count the iterations of an epoch.
    """

    def __init__(self, interval: int = 10, ignore_last: bool = True, reset_flag: bool = False,
                 by_epoch: bool = True) -> None:
        self.interval = interval
        self.ignore_last = ignore_last
        self.reset_flag = reset_flag
        self.by_epoch = by_epoch

    @abstractmethod
    def log(self, runner: Any) -> Any:
        """Show ``runner.log_buffer.output``."""

    @staticmethod
    def is_scalar(val: Any, include_np: bool = True, include_torch: bool = True) -> bool:
        """Whether a value is a number, or an array or a tensor of one if these count."""
        if isinstance(val, numbers.Number):
            return True
        if include_np and isinstance(val, np.ndarray) and val.ndim == 0:
            return True
        return include_torch and isinstance(val, torch.Tensor) and val.numel() == 1

    def get_mode(self, runner: Any) -> str:
        """``'train'`` or ``'val'``; scores of an evaluation during training are ``'val'``."""
        if runner.mode == "train":
            return "train" if "time" in runner.log_buffer.output else "val"
        if runner.mode == "val":
            return "val"
        raise ValueError(f"runner mode should be 'train' or 'val', but got {runner.mode}")

    def get_epoch(self, runner: Any) -> int:
        """The epoch, counted from 1; a ``val`` of the workflow belongs to the one before."""
        if runner.mode == "train":
            return runner.epoch + 1
        if runner.mode == "val":
            return runner.epoch
        raise ValueError(f"runner mode should be 'train' or 'val', but got {runner.mode}")

    def get_iter(self, runner: Any, inner_iter: bool = False) -> int:
        """The iteration, counted from 1; of the epoch if ``inner_iter`` and by epochs."""
        return (runner.inner_iter if self.by_epoch and inner_iter else runner.iter) + 1

    def _tags(self, values: Any, name: str) -> dict[str, float]:
        if isinstance(values, dict):
            return {f"{name}/{key}": value[0] for key, value in values.items()}
        return {name: values[0]}

    def get_lr_tags(self, runner: Any) -> dict[str, float]:
        """``learning_rate`` of the first group, or of each optimizer's."""
        return self._tags(runner.current_lr(), "learning_rate")

    def get_momentum_tags(self, runner: Any) -> dict[str, float]:
        """``momentum`` of the first group, or of each optimizer's."""
        return self._tags(runner.current_momentum(), "momentum")

    def get_loggable_tags(self, runner: Any, allow_scalar: bool = True, allow_text: bool = False,
                          add_mode: bool = True,
                          tags_to_skip: tuple[str, ...] = ("time", "data_time")
                          ) -> dict[str, Any]:
        """What is to be shown, by name.

        Args:
            runner: the runner.
            allow_scalar: give numbers.
            allow_text: give strings.
            add_mode: put ``train/`` or ``val/`` before names.
            tags_to_skip: leave these out.
        """
        tags: dict[str, Any] = {}
        for name, value in runner.log_buffer.output.items():
            if name in tags_to_skip:
                continue
            if (self.is_scalar(value) and not allow_scalar) or (isinstance(value, str)
                                                                and not allow_text):
                continue
            tags[f"{self.get_mode(runner)}/{name}" if add_mode else name] = value
        return {**tags, **self.get_lr_tags(runner), **self.get_momentum_tags(runner)}

    def before_run(self, runner: Any) -> None:
        """Let the last logger empty the output."""
        last = next((h for h in reversed(runner.hooks) if isinstance(h, LoggerHook)), None)
        if last is not None:
            last.reset_flag = True

    def before_epoch(self, runner: Any) -> None:
        """Begin with an empty buffer."""
        runner.log_buffer.clear()

    def after_train_iter(self, runner: Any) -> None:
        """Log when it is time."""
        due = self.every_n_inner_iters if self.by_epoch else self.every_n_iters
        if due(runner, self.interval) or (self.end_of_epoch(runner) and not self.ignore_last):
            runner.log_buffer.average(self.interval)
        self._log_what_is_ready(runner)

    def after_train_epoch(self, runner: Any) -> None:
        """Log what an evaluation has left."""
        self._log_what_is_ready(runner)

    def _log_what_is_ready(self, runner: Any) -> None:
        if runner.log_buffer.ready:
            self.log(runner)
            if self.reset_flag:
                runner.log_buffer.clear_output()

    def after_val_epoch(self, runner: Any) -> None:
        """Log the mean of the epoch."""
        runner.log_buffer.average()
        self.log(runner)
        if self.reset_flag:
            runner.log_buffer.clear_output()
