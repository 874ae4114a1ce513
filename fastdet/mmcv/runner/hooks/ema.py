"""A moving average of the weights, as in ``mmcv.runner.hooks.ema``."""

from __future__ import annotations

from typing import Any

import torch

from ...parallel import is_module_wrapper
from .hook import HOOKS, Hook

__all__ = ["EMAHook"]


@HOOKS.register_module()
class EMAHook(Hook):
    """Keeps ``average = (1 - m) * average + m * weight`` in buffers ``ema_…`` of the model.

    The averages stand in the weights' place for evaluation and in checkpoints; the weights
    themselves are in the buffers then.

    Args:
        momentum: ``m`` of one iteration; with an ``interval`` it is ``momentum ** interval``.
        interval: iterations between updates.
        warm_up: the smaller, the longer ``m = (1 + iter) / (warm_up + iter)`` holds at first.
        resume_from: a checkpoint to resume once the buffers are there, so that it fills them.
    """

    def __init__(self, momentum: float = 0.0002, interval: int = 1, warm_up: int = 100,
                 resume_from: str | None = None) -> None:
        if not isinstance(interval, int) or interval <= 0:
            raise AssertionError(f"interval must be a positive int, got {interval!r}")
        if not 0 < momentum < 1:
            raise AssertionError(f"momentum must lie between 0 and 1, got {momentum!r}")
        self.warm_up = warm_up
        self.interval = interval
        self.momentum = momentum ** interval
        self.checkpoint = resume_from

    def before_run(self, runner: Any) -> None:
        """Add a buffer for each parameter; resume ``resume_from``."""
        model = runner.model.module if is_module_wrapper(runner.model) else runner.model
        self.model_parameters = dict(model.named_parameters(recurse=True))
        self.param_ema_buffer = {name: f"ema_{name.replace('.', '_')}"
                                 for name in self.model_parameters}
        for name, parameter in self.model_parameters.items():
            model.register_buffer(self.param_ema_buffer[name], parameter.detach().clone())
        self.model_buffers = dict(model.named_buffers(recurse=True))
        if self.checkpoint is not None:
            runner.resume(self.checkpoint)

    def _pairs(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        return ([p.data for p in self.model_parameters.values()],
                [self.model_buffers[b] for b in self.param_ema_buffer.values()])

    def after_train_iter(self, runner: Any) -> None:
        """Move the averages."""
        if runner.iter % self.interval:
            return
        m = min(self.momentum, (1 + runner.iter) / (self.warm_up + runner.iter))
        weights, averages = self._pairs()
        torch._foreach_mul_(averages, 1 - m)
        torch._foreach_add_(averages, weights, alpha=m)

    def after_train_epoch(self, runner: Any) -> None:
        """Put the averages into the weights' place."""
        self._swap_ema_parameters()

    def before_train_epoch(self, runner: Any) -> None:
        """Put the weights back."""
        self._swap_ema_parameters()

    def _swap_ema_parameters(self) -> None:
        for weight, average in zip(*self._pairs()):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)
