"""Residual sum and layer normalisation: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import operator
from ..common import autocasting, dtype_reason, next_power_of_2, partial_sums
from ..dispatch import Reason, use_triton
from ..launch import launch, num_sms
from .reference import add_layer_norm_reference

__all__ = ["add_layer_norm", "can_run_add_layer_norm"]

#: Widest row: one more bit and a program of 8 warps would spill.
_WIDEST = 4096


def can_run_add_layer_norm(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    if reason := dtype_reason(x, weight, dtype):
        return reason
    if weight.shape[0] > _WIDEST:
        return f"its kernels take rows of at most {_WIDEST} channels, not {weight.shape[0]}"
    return None


class _Config(NamedTuple):
    block_m: int  # rows of a tile
    block_c: int  # their channels
    num_warps: int
    per_sm: int  # programs whose registers a multiprocessor has room for


def _config(channels: int, backward: bool) -> _Config:
    """Tiles of 2048 elements forward and 1024 backward, which has five of them in registers."""
    block_c = next_power_of_2(channels, 16)
    block_m = max(1, (1024 if backward else 2048) // block_c)
    return _Config(block_m, block_c, 8, 2) if block_c > 2048 else _Config(block_m, block_c, 4, 6)


#: Tiles of a program of the backward, where there are as many: each program leaves a partial sum.
_LEAST_TILES = 4


def _rows(x: Tensor) -> tuple[int, int]:
    """Rows, and rows of one sample."""
    rows = x.numel() // x.shape[-1]
    return rows, max(1, rows // max(1, x.shape[0]))


@operator(
    "add_layer_norm",
    "(Tensor x, Tensor? branch, Tensor? scale, Tensor weight, Tensor bias, float eps, "
    "ScalarType dtype) -> (Tensor, Tensor, Tensor)")
def _forward(x: Tensor, branch: Tensor | None, scale: Tensor | None, weight: Tensor, bias: Tensor,
             eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    from .kernel import add_layer_norm_fwd_kernel

    x = x.contiguous()
    branch = None if branch is None else branch.contiguous()
    rows, per_sample = _rows(x)
    total = x.new_empty(0) if branch is None else torch.empty_like(
        x, dtype=torch.promote_types(x.dtype, branch.dtype))
    out = torch.empty_like(x, dtype=dtype)
    stats = torch.empty(2, rows, dtype=torch.float32, device=x.device)
    config = _config(x.shape[-1], False)
    launch(add_layer_norm_fwd_kernel, (-(-rows // config.block_m),), x,
           x if branch is None else branch, x if scale is None else scale.contiguous(),
           weight.contiguous(), bias.contiguous(), total, out, stats, rows, per_sample, eps,
           device=x.device, C=x.shape[-1], HAS_BRANCH=int(branch is not None),
           HAS_SCALE=int(scale is not None), BLOCK_M=config.block_m, BLOCK_C=config.block_c,
           num_warps=config.num_warps)
    return total, out, stats


@_forward.register_fake
def _(x: Tensor, branch: Tensor | None, scale: Tensor | None, weight: Tensor, bias: Tensor,
      eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    total = x.new_empty(0) if branch is None else x.new_empty(
        x.shape, dtype=torch.promote_types(x.dtype, branch.dtype))
    return (total, x.new_empty(x.shape, dtype=dtype),
            x.new_empty(2, x.numel() // x.shape[-1], dtype=torch.float32))


@operator(
    "add_layer_norm_backward",
    "(Tensor? grad_total, Tensor grad, Tensor total, Tensor stats, Tensor? scale, Tensor weight, "
    "ScalarType dtype, ScalarType? branch_dtype, bool needs_weight) -> (Tensor, Tensor, Tensor)")
def _backward(grad_total: Tensor | None, grad: Tensor, total: Tensor, stats: Tensor,
              scale: Tensor | None, weight: Tensor, dtype: torch.dtype,
              branch_dtype: torch.dtype | None, needs_weight: bool
              ) -> tuple[Tensor, Tensor, Tensor]:
    from .kernel import add_layer_norm_bwd_kernel

    grad, total = grad.contiguous(), total.contiguous()
    rows, per_sample = _rows(total)
    config = _config(total.shape[-1], True)
    blocks = -(-rows // config.block_m)
    programs = min(config.per_sm * num_sms(total.device), -(-blocks // _LEAST_TILES))
    dx = torch.empty_like(total, dtype=dtype)
    dbranch = total.new_empty(total.shape if branch_dtype else (0,), dtype=branch_dtype)
    partial = partial_sums((programs, 2, total.shape[-1]), total.device, needs_weight)
    launch(add_layer_norm_bwd_kernel, (programs,),
           grad if grad_total is None else grad_total.contiguous(), grad, total, stats,
           weight.contiguous(), total if scale is None else scale.contiguous(), dx, dbranch,
           partial, rows, per_sample, blocks, programs, device=total.device, C=total.shape[-1],
           HAS_TOTAL=int(grad_total is not None), HAS_BRANCH=int(branch_dtype is not None),
           HAS_SCALE=int(scale is not None), NEEDS_WEIGHT=int(needs_weight),
           BLOCK_M=config.block_m, BLOCK_C=config.block_c, num_warps=config.num_warps)
    dweight = partial.sum(0) if needs_weight else partial
    return dx, dbranch, dweight


@_backward.register_fake
def _(grad_total: Tensor | None, grad: Tensor, total: Tensor, stats: Tensor,
      scale: Tensor | None, weight: Tensor, dtype: torch.dtype,
      branch_dtype: torch.dtype | None, needs_weight: bool) -> tuple[Tensor, Tensor, Tensor]:
    return (total.new_empty(total.shape, dtype=dtype),
            total.new_empty(total.shape if branch_dtype else (0,), dtype=branch_dtype),
            total.new_empty((2, total.shape[-1]) if needs_weight else (0,), dtype=torch.float32))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, branch, scale, weight, bias, *_ = inputs
    total, _, stats = output
    ctx.save_for_backward(x if branch is None else total, stats, scale, weight)
    ctx.dtypes = x.dtype, None if branch is None else branch.dtype, weight.dtype, bias.dtype
    ctx.mark_non_differentiable(stats)


def _autograd(ctx: Any, grad_total: Tensor, grad: Tensor, _: Tensor) -> tuple[Any, ...]:
    x_dtype, branch_dtype, weight_dtype, bias_dtype = ctx.dtypes
    total, stats, scale, weight = ctx.saved_tensors
    needs = ctx.needs_input_grad
    # Where nothing tells them apart, one tensor is the gradient of both.
    apart = needs[1] and (branch_dtype != x_dtype or scale is not None)
    dx, dbranch, dweight = _backward(
        None if branch_dtype is None else grad_total, grad, total, stats,
        scale if apart else None, weight, x_dtype, branch_dtype if apart else None,
        needs[3] or needs[4])
    if needs[1] and not apart:
        dbranch = dx
    return (dx if needs[0] else None, dbranch if needs[1] else None, None,
            dweight[0].to(weight_dtype) if needs[3] else None,
            dweight[1].to(bias_dtype) if needs[4] else None, None, None)


_forward.register_autograd(_autograd, setup_context=_setup_context)


def add_layer_norm(x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor,
                   eps: float = 1e-5, *, scale: Tensor | None = None,
                   dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """The sum of a residual block and its layer normalisation (arXiv 1607.06450).

    Args:
        x: [B, ..., C].
        branch: [B, ..., C] to add, of any floating-point type; ``None`` adds nothing, and the sum
            is ``x`` itself.
        weight: [C] of the normalisation.
        bias: [C] of the normalisation.
        eps: added to the variance.
        scale: [B] factors on the samples of ``branch``, as stochastic depth draws them; they get
            no gradient.
        dtype: of the normalised tensor; by default what :func:`torch.nn.functional.layer_norm`
            gives: float32 under a GPU's autocast, otherwise the type of the sum.

    Returns:
        ``x + scale * branch``, of the type that torch promotes the two to, and its normalisation.

    Raises:
        ValueError: shapes, data types or devices do not fit.
        BackendError: the triton backend was asked for by name and cannot take the call.
    """
    name = "add_layer_norm"
    if x.dim() < 2 or not x.is_floating_point():
        raise ValueError(f"{name}: x must be floating-point [B, ..., C], got {x.dtype} "
                         f"{list(x.shape)}")
    if branch is not None and (branch.shape != x.shape or not branch.is_floating_point()
                               or branch.device != x.device):
        raise ValueError(f"{name}: branch must be floating-point {list(x.shape)} on {x.device}, "
                         f"got {branch.dtype} {list(branch.shape)} on {branch.device}")
    for what, given in (("weight", weight), ("bias", bias)):
        if list(given.shape) != [x.shape[-1]] or given.device != x.device:
            raise ValueError(f"{name}: {what} must be [{x.shape[-1]}] on {x.device}, got "
                             f"{list(given.shape)} on {given.device}")
    if scale is not None and (branch is None or list(scale.shape) != [x.shape[0]]):
        raise ValueError(f"{name}: scale must be [{x.shape[0]}] and come with a branch, got "
                         f"{list(scale.shape)}")
    if dtype is None:
        dtype = x.dtype if branch is None else torch.promote_types(x.dtype, branch.dtype)
        if x.device.type != "cpu" and autocasting(x.device):
            dtype = torch.promote_types(dtype, torch.float32)
    if not use_triton(name, x.device, can_run_add_layer_norm(x, weight, dtype)):
        return add_layer_norm_reference(x, branch, weight, bias, eps, scale, dtype)
    total, normed, _ = _forward(x, branch, scale, weight, bias, eps, dtype)
    return x if branch is None else total, normed
