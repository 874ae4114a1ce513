"""Logs for Weights & Biases, as in ``mmcv.runner.hooks.logger.wandb``."""

from __future__ import annotations

import os
from typing import Any

from ....utils.misc import optional_import
from ....utils.path import scandir
from ...dist_utils import master_only
from ..hook import HOOKS
from .base import LoggerHook

__all__ = ["WandbLoggerHook"]


@HOOKS.register_module()
class WandbLoggerHook(LoggerHook):
    """Logs to Weights & Biases; needs the package ``wandb``.

    Args:
        init_kwargs: arguments of ``wandb.init``.
        interval, ignore_last, reset_flag, by_epoch: see :class:`LoggerHook`.
        commit: send at once, instead of with what is logged next.
        with_step: give the iteration as the step; otherwise as the metric ``global_step``.
        log_artifact: send the run's files at the end.
        out_suffix: which of them.
        define_metric_cfg: the summary (``'max'`` …) of each metric.
    """

    def __init__(self, init_kwargs: dict[str, Any] | None = None, interval: int = 10,
                 ignore_last: bool = True, reset_flag: bool = False, commit: bool = True,
                 by_epoch: bool = True, with_step: bool = True, log_artifact: bool = True,
                 out_suffix: str | tuple[str, ...] = (".log.json", ".log", ".py"),
                 define_metric_cfg: dict[str, str] | None = None) -> None:
        super().__init__(interval, ignore_last, reset_flag, by_epoch)
        self.import_wandb()
        self.init_kwargs = init_kwargs
        self.commit = commit
        self.with_step = with_step
        self.log_artifact = log_artifact
        self.out_suffix = out_suffix
        self.define_metric_cfg = define_metric_cfg

    def import_wandb(self) -> None:
        """Import the package."""
        self.wandb = optional_import("wandb", "WandbLoggerHook")

    @master_only
    def before_run(self, runner: Any) -> None:
        """Start a run."""
        super().before_run(runner)
        self.wandb.init(**(self.init_kwargs or {}))
        for metric, summary in (self.define_metric_cfg or {}).items():
            self.wandb.define_metric(metric, summary=summary)

    @master_only
    def log(self, runner: Any) -> None:
        """Log numbers at this iteration."""
        tags = self.get_loggable_tags(runner)
        if tags and self.with_step:
            self.wandb.log(tags, step=self.get_iter(runner), commit=self.commit)
        elif tags:
            self.wandb.log({**tags, "global_step": self.get_iter(runner)}, commit=self.commit)

    @master_only
    def after_run(self, runner: Any) -> None:
        """Send the run's files and end it."""
        if self.log_artifact:
            artifact = self.wandb.Artifact(name="artifacts", type="model")
            for name in scandir(runner.work_dir, self.out_suffix, True):
                path = os.path.join(runner.work_dir, name)
                artifact.add_file(path, name=path)
            self.wandb.log_artifact(artifact)
        self.wandb.finish()
