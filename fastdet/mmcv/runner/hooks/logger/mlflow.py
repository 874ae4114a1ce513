"""Logs for MLflow, as in ``mmcv.runner.hooks.logger.mlflow``."""

from __future__ import annotations

from typing import Any

import torch

from ....utils.misc import optional_import
from ...dist_utils import master_only
from ..hook import HOOKS
from .base import LoggerHook

__all__ = ["MlflowLoggerHook"]


@HOOKS.register_module()
class MlflowLoggerHook(LoggerHook):
    """Logs to MLflow; needs the package ``mlflow``.

    Args:
        exp_name: name of the experiment.
        tags, params: set for the run.
        log_model: log the model at the end.
        interval, ignore_last, reset_flag, by_epoch: see :class:`LoggerHook`.
    """

    def __init__(self, exp_name: str | None = None, tags: dict[str, Any] | None = None,
                 params: dict[str, Any] | None = None, log_model: bool = True,
                 interval: int = 10, ignore_last: bool = True, reset_flag: bool = False,
                 by_epoch: bool = True) -> None:
        super().__init__(interval, ignore_last, reset_flag, by_epoch)
        self.import_mlflow()
        self.exp_name = exp_name
        self.tags = tags
        self.params = params
        self.log_model = log_model

    def import_mlflow(self) -> None:
        """Import the package."""
        self.mlflow = optional_import("mlflow", "MlflowLoggerHook")
        self.mlflow_pytorch = optional_import("mlflow.pytorch", "MlflowLoggerHook", "mlflow")

    @master_only
    def before_run(self, runner: Any) -> None:
        """Set the experiment, tags and parameters."""
        super().before_run(runner)
        if self.exp_name is not None:
            self.mlflow.set_experiment(self.exp_name)
        if self.tags is not None:
            self.mlflow.set_tags(self.tags)
        if self.params is not None:
            self.mlflow.log_params(self.params)

    @master_only
    def log(self, runner: Any) -> None:
        """Log numbers at this iteration."""
        if tags := self.get_loggable_tags(runner):
            self.mlflow.log_metrics(tags, step=self.get_iter(runner))

    @master_only
    def after_run(self, runner: Any) -> None:
        """Log the model."""
        if self.log_model:
            self.mlflow_pytorch.log_model(runner.model, "models",
                                          pip_requirements=[f"torch=={torch.__version__}"])
