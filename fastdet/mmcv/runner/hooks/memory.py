"""The GPU's memory, as in ``mmcv.runner.hooks.memory``."""

from __future__ import annotations

from typing import Any

import torch

from .hook import HOOKS, Hook

__all__ = ["EmptyCacheHook"]


@HOOKS.register_module()
class EmptyCacheHook(Hook):
    """Gives cached memory of the GPU back at the chosen stages."""

    def __init__(self, before_epoch: bool = False, after_epoch: bool = True,
                 after_iter: bool = False) -> None:
        self._before_epoch = before_epoch
        self._after_epoch = after_epoch
        self._after_iter = after_iter

    def after_iter(self, runner: Any) -> None:
        """Empty the cache if so chosen."""
        if self._after_iter:
            torch.cuda.empty_cache()

    def before_epoch(self, runner: Any) -> None:
        """Empty the cache if so chosen."""
        if self._before_epoch:
            torch.cuda.empty_cache()

    def after_epoch(self, runner: Any) -> None:
        """Empty the cache if so chosen."""
        if self._after_epoch:
            torch.cuda.empty_cache()
