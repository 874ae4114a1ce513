"""Logs for Segmind, as in ``mmcv.runner.hooks.logger.segmind``."""

from __future__ import annotations

from typing import Any

from ....utils.misc import optional_import
from ...dist_utils import master_only
from ..hook import HOOKS
from .base import LoggerHook

__all__ = ["SegmindLoggerHook"]


@HOOKS.register_module()
class SegmindLoggerHook(LoggerHook):
    """Logs to Segmind; needs the package ``segmind``.

    Args:
        interval, ignore_last, reset_flag, by_epoch: see :class:`LoggerHook`.
    """

    def __init__(self, interval: int = 10, ignore_last: bool = True, reset_flag: bool = False,
                 by_epoch: bool = True) -> None:
        super().__init__(interval, ignore_last, reset_flag, by_epoch)
        self.import_segmind()

    def import_segmind(self) -> None:
        """Import the package."""
        fluent = optional_import("segmind.tracking.fluent", "SegmindLoggerHook", "segmind")
        tools = optional_import("segmind.utils.logging_utils", "SegmindLoggerHook", "segmind")
        self.log_metrics = fluent.log_metrics
        self.mlflow_log = tools.try_mlflow_log

    @master_only
    def log(self, runner: Any) -> None:
        """Log numbers of this epoch."""
        if tags := self.get_loggable_tags(runner):
            self.mlflow_log(self.log_metrics, tags, step=runner.epoch, epoch=runner.epoch)
