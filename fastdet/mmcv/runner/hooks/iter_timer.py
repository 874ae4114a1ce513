"""Seconds of an iteration, as in ``mmcv.runner.hooks.iter_timer``."""

from __future__ import annotations

import time
from typing import Any

from .hook import HOOKS, Hook

__all__ = ["IterTimerHook"]


@HOOKS.register_module()
class IterTimerHook(Hook):
    """Logs ``data_time``, the wait for a batch, and ``time``, the whole iteration, in seconds."""

    def before_epoch(self, runner: Any) -> None:
        """Start the clock."""
        self.t = time.time()

    def before_iter(self, runner: Any) -> None:
        """The batch is there."""
        runner.log_buffer.update({"data_time": time.time() - self.t})

    def after_iter(self, runner: Any) -> None:
        """The iteration is done."""
        now = time.time()
        runner.log_buffer.update({"time": now - self.t})
        self.t = now
