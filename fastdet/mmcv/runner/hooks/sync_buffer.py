"""Buffers of all processes, as in ``mmcv.runner.hooks.sync_buffer``."""

from __future__ import annotations

from typing import Any

from ..dist_utils import allreduce_params
from .hook import HOOKS, Hook

__all__ = ["SyncBuffersHook"]


@HOOKS.register_module()
class SyncBuffersHook(Hook):
    """Averages the model's buffers over the processes after each epoch.

    Args:
        distributed: whether there are several processes.
    """

    def __init__(self, distributed: bool = True) -> None:
        self.distributed = distributed

    def after_epoch(self, runner: Any) -> None:
        """Average the buffers."""
        if self.distributed:
            allreduce_params(runner.model.buffers())
