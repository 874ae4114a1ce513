"""Logs for TensorBoard, as in ``mmcv.runner.hooks.logger.tensorboard``."""

from __future__ import annotations

import os
from typing import Any

from ....utils.misc import optional_import
from ...dist_utils import master_only
from ..hook import HOOKS
from .base import LoggerHook

__all__ = ["TensorboardLoggerHook"]


@HOOKS.register_module()
class TensorboardLoggerHook(LoggerHook):
    """Logs by ``torch.utils.tensorboard``; needs the package ``tensorboard``.

    Args:
        log_dir: the folder; ``tf_logs`` in the run's by default.
        interval, ignore_last, reset_flag, by_epoch: see :class:`LoggerHook`.
    """

    def __init__(self, log_dir: str | None = None, interval: int = 10, ignore_last: bool = True,
                 reset_flag: bool = False, by_epoch: bool = True) -> None:
        super().__init__(interval, ignore_last, reset_flag, by_epoch)
        self.log_dir = log_dir

    @master_only
    def before_run(self, runner: Any) -> None:
        """Open the log."""
        super().before_run(runner)
        tensorboard = optional_import("torch.utils.tensorboard", "TensorboardLoggerHook",
                                      "tensorboard")
        if self.log_dir is None:
            self.log_dir = os.path.join(runner.work_dir, "tf_logs")
        self.writer = tensorboard.SummaryWriter(self.log_dir)

    @master_only
    def log(self, runner: Any) -> None:
        """Log numbers and texts at this iteration."""
        for tag, value in self.get_loggable_tags(runner, allow_text=True).items():
            if isinstance(value, str):
                self.writer.add_text(tag, value, self.get_iter(runner))
            else:
                self.writer.add_scalar(tag, value, self.get_iter(runner))

    @master_only
    def after_run(self, runner: Any) -> None:
        """Close the log."""
        self.writer.close()
