"""New order in each epoch, as in ``mmcv.runner.hooks.sampler_seed``."""

from __future__ import annotations

from typing import Any

from .hook import HOOKS, Hook

__all__ = ["DistSamplerSeedHook"]


@HOOKS.register_module()
class DistSamplerSeedHook(Hook):
    """Tells the sampler (or the batch sampler's) which epoch begins."""

    def before_epoch(self, runner: Any) -> None:
        """Call ``set_epoch`` where there is one."""
        loader = runner.data_loader
        candidates: tuple[Any, ...] = (
            getattr(loader, "sampler", None),
            getattr(getattr(loader, "batch_sampler", None), "sampler", None))
        for sampler in candidates:
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(runner.epoch)
                return
