"""Logs for DVCLive, as in ``mmcv.runner.hooks.logger.dvclive``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ....utils.misc import optional_import
from ...dist_utils import master_only
from ..hook import HOOKS
from .base import LoggerHook

__all__ = ["DvcliveLoggerHook"]


@HOOKS.register_module()
class DvcliveLoggerHook(LoggerHook):
    """Logs to DVCLive; needs the package ``dvclive`` (2.0 or later).

    Args:
        model_file: save a checkpoint here after each epoch (or iteration).
        interval, ignore_last, reset_flag, by_epoch: see :class:`LoggerHook`.
        dvclive: a ``dvclive.Live``; one of ``kwargs`` is made if not given.
        kwargs: arguments of ``dvclive.Live``.
    """

    def __init__(self, model_file: str | None = None, interval: int = 10,
                 ignore_last: bool = True, reset_flag: bool = False, by_epoch: bool = True,
                 dvclive: Any = None, **kwargs: Any) -> None:
        super().__init__(interval, ignore_last, reset_flag, by_epoch)
        self.model_file = model_file
        self._import_dvclive(dvclive, **kwargs)

    def _import_dvclive(self, dvclive: Any = None, **kwargs: Any) -> None:
        live = optional_import("dvclive", "DvcliveLoggerHook").Live
        self.dvclive = live(**kwargs) if dvclive is None else dvclive

    @master_only
    def log(self, runner: Any) -> None:
        """Log numbers at this iteration."""
        if tags := self.get_loggable_tags(runner):
            self.dvclive.step = self.get_iter(runner)
            for name, value in tags.items():
                self.dvclive.log_metric(name, value)
            self.dvclive.make_summary()

    @master_only
    def after_train_epoch(self, runner: Any) -> None:
        """Log, and save a checkpoint, if by epochs."""
        super().after_train_epoch(runner)
        if self.by_epoch:
            self._save(runner)

    @master_only
    def after_train_iter(self, runner: Any) -> None:
        """Log, and save a checkpoint, if by iterations."""
        super().after_train_iter(runner)
        if not self.by_epoch and runner.log_buffer.ready:
            self._save(runner)

    def _save(self, runner: Any) -> None:
        if self.model_file is not None:
            path = Path(self.model_file)
            runner.save_checkpoint(str(path.parent), filename_tmpl=path.name,
                                   create_symlink=False)
