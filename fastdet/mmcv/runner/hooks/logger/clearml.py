"""Logs for ClearML, as in ``mmcv.runner.hooks.logger.clearml``."""

from __future__ import annotations

from typing import Any

from ....utils.misc import optional_import
from ...dist_utils import master_only
from ..hook import HOOKS
from .base import LoggerHook

__all__ = ["ClearMLLoggerHook"]


@HOOKS.register_module()
class ClearMLLoggerHook(LoggerHook):
    """Logs to ClearML; needs the package ``clearml``.

    Args:
        init_kwargs: arguments of ``clearml.Task.init``.
        interval, ignore_last, reset_flag, by_epoch: see :class:`LoggerHook`.
    """

    def __init__(self, init_kwargs: dict[str, Any] | None = None, interval: int = 10,
                 ignore_last: bool = True, reset_flag: bool = False,
                 by_epoch: bool = True) -> None:
        super().__init__(interval, ignore_last, reset_flag, by_epoch)
        self.import_clearml()
        self.init_kwargs = init_kwargs

    def import_clearml(self) -> None:
        """Import the package."""
        self.clearml = optional_import("clearml", "ClearMLLoggerHook")

    @master_only
    def before_run(self, runner: Any) -> None:
        """Start a task."""
        super().before_run(runner)
        self.task = self.clearml.Task.init(**(self.init_kwargs or {}))
        self.task_logger = self.task.get_logger()

    @master_only
    def log(self, runner: Any) -> None:
        """Log numbers at this iteration."""
        for tag, value in self.get_loggable_tags(runner).items():
            self.task_logger.report_scalar(tag, tag, value, self.get_iter(runner))
