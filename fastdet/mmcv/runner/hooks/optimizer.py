"""The step of the optimizer, as in ``mmcv.runner.hooks.optimizer``, at full and half precision."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import clip_grad

from fastdet.runner import wrap_fp16_model

from .hook import HOOKS, Hook

__all__ = ["Fp16OptimizerHook", "GradientCumulativeFp16OptimizerHook",
           "GradientCumulativeOptimizerHook", "OptimizerHook"]


@HOOKS.register_module()
class OptimizerHook(Hook):
    """Backward and the optimizer's step after each iteration.

    Args:
        grad_clip: arguments of ``torch.nn.utils.clip_grad_norm_``; no clipping by default.
        detect_anomalous_params: log an error for each parameter that the loss does not depend on.
            It walks the whole graph: for debugging.
    """

    def __init__(self, grad_clip: dict[str, Any] | None = None,
                 detect_anomalous_params: bool = False) -> None:
        self.grad_clip = grad_clip
        self.detect_anomalous_params = detect_anomalous_params

    def clip_grads(self, params: Iterable[nn.Parameter]) -> torch.Tensor | None:
        """Clip gradients; their norm before, or ``None`` where there are none."""
        assert self.grad_clip is not None
        params = [p for p in params if p.requires_grad and p.grad is not None]
        return clip_grad.clip_grad_norm_(params, **self.grad_clip) if params else None

    def _clip_and_log(self, runner: Any) -> None:
        if self.grad_clip is not None:
            norm = self.clip_grads(runner.model.parameters())
            if norm is not None:
                runner.log_buffer.update({"grad_norm": float(norm)},
                                         runner.outputs["num_samples"])

    def after_train_iter(self, runner: Any) -> None:
        """Backward, clip, step."""
        runner.optimizer.zero_grad()
        if self.detect_anomalous_params:
            self.detect_anomalous_parameters(runner.outputs["loss"], runner)
        runner.outputs["loss"].backward()
        self._clip_and_log(runner)
        runner.optimizer.step()

    def detect_anomalous_parameters(self, loss: torch.Tensor, runner: Any) -> None:
        """Log an error for each trainable parameter that is not in the loss's graph."""
        seen = set()
        found = set()
        todo = [loss.grad_fn]
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            if hasattr(node, "variable"):
                found.add(node.variable)
            todo += [parent for parent, _ in node.next_functions]
        for name, parameter in runner.model.named_parameters():
            if parameter.requires_grad and parameter not in found:
                runner.logger.log(level=logging.ERROR,
                                  msg=f"{name} with shape {parameter.size()} is not in the "
                                      "computational graph \n")


@HOOKS.register_module()
class GradientCumulativeOptimizerHook(OptimizerHook):
    """A step every ``cumulative_iters`` iterations, on the mean of their gradients.

    Args:
        cumulative_iters: iterations of a step. The last step of a training may have fewer.
        kwargs: as for :class:`OptimizerHook`.
    """

    def __init__(self, cumulative_iters: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(cumulative_iters, int) or cumulative_iters <= 0:
            raise AssertionError("cumulative_iters only accepts positive int, "
                                 f"but got {cumulative_iters!r}")
        self.cumulative_iters = cumulative_iters
        self.divisible_iters = 0
        self.remainder_iters = 0
        self.initialized = False

    def has_batch_norm(self, module: nn.Module) -> bool:
        """Whether there is a batch norm in a module."""
        return any(isinstance(m, _BatchNorm) for m in module.modules())

    def _init(self, runner: Any) -> None:
        if runner.iter % self.cumulative_iters:
            runner.logger.warning(
                "Resume iter number is not divisible by cumulative_iters in "
                "GradientCumulativeOptimizerHook, which means the gradient of some iters is lost "
                "and the result may be influenced slightly.")
        if self.cumulative_iters > 1 and self.has_batch_norm(runner.model):
            runner.logger.warning("GradientCumulativeOptimizerHook may slightly decrease "
                                  "performance if the model has BatchNorm layers.")
        left = runner.max_iters - runner.iter
        self.divisible_iters = left // self.cumulative_iters * self.cumulative_iters
        self.remainder_iters = left - self.divisible_iters
        self.initialized = True

    def _get_loss_factor(self, runner: Any) -> int:
        """By what the loss of this iteration is divided."""
        if runner.iter < runner.max_iters - self.remainder_iters:
            return self.cumulative_iters
        runner.logger.warning(
            "Loss will be divided by %d in the last %d iterations because they are not enough for "
            "%d cumulative_iters.", self.remainder_iters, self.remainder_iters,
            self.cumulative_iters)
        return self.remainder_iters

    def _steps_now(self, runner: Any) -> bool:
        return self.every_n_iters(runner, self.cumulative_iters) or self.is_last_iter(runner)

    def after_train_iter(self, runner: Any) -> None:
        """Backward; clip and step when it is time."""
        if not self.initialized:
            self._init(runner)
        (runner.outputs["loss"] / self._get_loss_factor(runner)).backward()
        if self._steps_now(runner):
            self._clip_and_log(runner)
            runner.optimizer.step()
            runner.optimizer.zero_grad()


@HOOKS.register_module()
class Fp16OptimizerHook(OptimizerHook):
    """The step with a scaled loss; the model's decorated methods run in half precision.

    The scaler's state is in the checkpoint's ``meta['fp16']['loss_scaler']``.

    Args:
        grad_clip: see :class:`OptimizerHook`.
        coalesce, bucket_size_mb, distributed: accepted as in mmcv; torch's DDP needs none of them.
        loss_scale: a number that stays, ``'dynamic'``, or arguments of ``torch.amp.GradScaler``.
    """

    def __init__(self, grad_clip: dict[str, Any] | None = None, coalesce: bool = True,
                 bucket_size_mb: int = -1, loss_scale: float | str | dict[str, Any] = 512.0,
                 distributed: bool = True) -> None:
        self.grad_clip = grad_clip
        self.coalesce = coalesce
        self.bucket_size_mb = bucket_size_mb
        self.distributed = distributed
        self._scale_update_param: float | None = None
        kwargs: dict[str, Any] = {}
        if isinstance(loss_scale, float | int) and not isinstance(loss_scale, bool):
            self._scale_update_param = float(loss_scale)
            kwargs = {"init_scale": float(loss_scale)}
        elif isinstance(loss_scale, dict):
            kwargs = loss_scale
        elif loss_scale != "dynamic":
            raise ValueError('loss_scale must be of type float, dict, or "dynamic", '
                             f"got {loss_scale!r}")
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.loss_scaler = torch.amp.GradScaler(device, **kwargs)

    def before_run(self, runner: Any) -> None:
        """Switch the model to half precision; take up a checkpoint's scaler."""
        wrap_fp16_model(runner.model)
        state = ((runner.meta or {}).get("fp16") or {}).get("loss_scaler")
        if state:  # it is empty where the scaler was off
            self.loss_scaler.load_state_dict(copy.copy(state))

    def copy_grads_to_fp32(self, fp16_net: nn.Module, fp32_weights: Iterable[torch.Tensor]) -> None:
        """Copy gradients of a half-precision model to those of its fp32 weights."""
        for weight, half in zip(fp32_weights, fp16_net.parameters()):
            if half.grad is not None:
                weight.grad = half.grad.to(weight.dtype, copy=True)

    def copy_params_to_fp16(self, fp16_net: nn.Module,
                            fp32_weights: Iterable[torch.Tensor]) -> None:
        """Copy fp32 weights to a half-precision model."""
        for half, weight in zip(fp16_net.parameters(), fp32_weights):
            half.data.copy_(weight.data)

    def _scaled_step(self, runner: Any) -> None:
        self.loss_scaler.unscale_(runner.optimizer)
        self._clip_and_log(runner)
        self.loss_scaler.step(runner.optimizer)
        self.loss_scaler.update(self._scale_update_param)
        if runner.meta is None:
            runner.meta = {}
        runner.meta.setdefault("fp16", {})["loss_scaler"] = self.loss_scaler.state_dict()

    def after_train_iter(self, runner: Any) -> None:
        """Backward of the scaled loss, unscale, clip, step unless a gradient overflowed."""
        runner.model.zero_grad()
        runner.optimizer.zero_grad()
        self.loss_scaler.scale(runner.outputs["loss"]).backward()
        self._scaled_step(runner)


@HOOKS.register_module()
class GradientCumulativeFp16OptimizerHook(GradientCumulativeOptimizerHook, Fp16OptimizerHook):
    """:class:`Fp16OptimizerHook` with a step every ``cumulative_iters`` iterations."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)

    def after_train_iter(self, runner: Any) -> None:
        """Backward of the scaled loss; unscale, clip and step when it is time."""
        if not self.initialized:
            self._init(runner)
        loss = runner.outputs["loss"] / self._get_loss_factor(runner)
        self.loss_scaler.scale(loss).backward()
        if self._steps_now(runner):
            self._scaled_step(runner)
            runner.model.zero_grad()
            runner.optimizer.zero_grad()
