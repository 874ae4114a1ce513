"""Residual sum and layer normalisation: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from ..autograd import operator
from ..common import autocasting, dtype_reason, next_power_of_2, options, partial_sums
from ..dispatch import Reason, tracing, use_triton
from ..launch import Prepared, Program, num_sms
from .reference import add_layer_norm_reference

__all__ = ["add_layer_norm", "can_run_add_layer_norm"]

NAME = "add_layer_norm"

#: Widest row: one more bit and a program of 8 warps would spill.
_WIDEST = 4096


def can_run_add_layer_norm(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    return row_reason(x, weight, dtype)


def row_reason(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Reason | None:
    """Why a program cannot normalise rows as long as ``weight``, from one type to the other."""
    if reason := dtype_reason(x, weight, dtype):
        return reason
    if weight.shape[0] > _WIDEST:
        return f"its kernels take rows of at most {_WIDEST} channels, not {weight.shape[0]}"
    return None


#: Tiles of a program of the backward, where there are as many: each program leaves a partial sum.
_LEAST_TILES = 4


class RowConfig(NamedTuple):
    """Tiles of whole rows that are normalised."""

    block_m: int  # rows of a tile
    block_c: int  # their channels
    num_warps: int
    per_sm: int  # programs whose registers a multiprocessor has room for

    def programs(self, tiles: int, multiprocessors: int) -> int:
        """Programs that walk over tiles."""
        return min(self.per_sm * multiprocessors, -(-tiles // _LEAST_TILES))


def row_config(channels: int, backward: bool) -> RowConfig:
    """Tiles of 2048 elements forward and 1024 backward, which has five of them in registers."""
    block_c = next_power_of_2(channels, 16)
    block_m = max(1, (1024 if backward else 2048) // block_c)
    return RowConfig(block_m, block_c, *((8, 2) if block_c > 2048 else (4, 6)))


@lru_cache(maxsize=512)
def _plan(kind: str, shape: torch.Size, multiprocessors: int, **has: int) -> Prepared:
    """``fwd`` or ``bwd``, whose programs walk, with rows and rows of a sample."""
    from . import kernel

    rows = math.prod(shape[:-1])
    config = row_config(shape[-1], kind == "bwd")
    tiles = -(-rows // config.block_m)
    program = Program(getattr(kernel, f"add_layer_norm_{kind}_kernel"), C=shape[-1], **has,
                      **options(config))
    return program.at((config.programs(tiles, multiprocessors) if kind == "bwd" else tiles,),
                      rows, max(1, rows // max(1, shape[0])))


def _launch(x: Tensor, branch: Tensor | None, scale: Tensor | None, weight: Tensor, bias: Tensor,
            eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    x = x.contiguous()
    fwd = _plan("fwd", x.shape, 0, HAS_BRANCH=int(branch is not None),
                HAS_SCALE=int(scale is not None))
    if branch is None:
        branch, total = x, x.new_empty(0)
    else:
        branch = branch.contiguous()
        total = torch.empty_like(x, dtype=torch.promote_types(x.dtype, branch.dtype))
    out = torch.empty_like(x, dtype=dtype)
    stats = torch.empty(2, fwd.numbers[0], dtype=torch.float32, device=x.device)
    fwd(x, branch, x if scale is None else scale.contiguous(), weight.contiguous(),
        bias.contiguous(), total, out, stats, eps, device=x.device)
    return total, out, stats


_forward = operator(
    "add_layer_norm",
    "(Tensor x, Tensor? branch, Tensor? scale, Tensor weight, Tensor bias, float eps, "
    "ScalarType dtype) -> (Tensor, Tensor, Tensor)", saved=1)(_launch)


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
    grad, total = grad.contiguous(), total.contiguous()
    bwd = _plan("bwd", total.shape, num_sms(total.device), HAS_TOTAL=int(grad_total is not None),
                HAS_BRANCH=int(branch_dtype is not None), HAS_SCALE=int(scale is not None),
                NEEDS_WEIGHT=int(needs_weight))
    dx = torch.empty_like(total, dtype=dtype)
    dbranch = total.new_empty(0) if branch_dtype is None else torch.empty_like(
        total, dtype=branch_dtype)
    partial = partial_sums((*bwd.grid, 2, total.shape[-1]), total.device, needs_weight)
    bwd(grad if grad_total is None else grad_total.contiguous(), grad, total, stats,
        weight.contiguous(), total if scale is None else scale.contiguous(), dx, dbranch, partial,
        device=total.device)
    return dx, dbranch, partial.sum(0) if needs_weight else partial


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
    ctx.normed_dtype = inputs[-1]
    ctx.has_total = branch is not None or total is x
    ctx.set_materialize_grads(False)  # a pass over zeros for a sum that nobody reads


def _autograd(ctx: Any, grad_total: Tensor | None, grad: Tensor | None, *_: None
              ) -> tuple[Any, ...]:
    x_dtype, branch_dtype, weight_dtype, bias_dtype = ctx.dtypes
    total, stats, scale, weight = ctx.saved_tensors
    needs_x, needs_branch, _, needs_weight, needs_bias, *_ = ctx.needs_input_grad
    if grad is None:
        grad = torch.zeros_like(total, dtype=ctx.normed_dtype)
    # Where nothing tells them apart, one tensor is the gradient of both.
    apart = needs_branch and (branch_dtype != x_dtype or scale is not None)
    dx, dbranch, dweights = _backward(
        grad_total if ctx.has_total else None, grad, total, stats, scale if apart else None,
        weight, x_dtype, branch_dtype if apart else None, needs_weight or needs_bias)
    if needs_branch and not apart:
        dbranch = dx
    dweight = dbias = None
    if needs_weight or needs_bias:
        dweight, dbias = (d if d.dtype == t else d.to(t)
                          for d, t in zip(dweights.unbind(), (weight_dtype, bias_dtype)))
    return (dx if needs_x else None, dbranch if needs_branch else None, None,
            dweight if needs_weight else None, dbias if needs_bias else None, None, None)


_forward.register_autograd(_autograd, setup_context=_setup_context)


class _Alone(Function):
    """The norm of ``x``, whose sum is ``x`` itself: gradients of both are added in one pass.

    A custom operator may not return an argument; where something traces, autograd adds.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        x = inputs[0]
        _, normed, stats = _launch(*inputs)
        _setup_context(ctx, inputs, (x, normed, stats))
        return x, normed

    backward = staticmethod(_autograd)


def add_layer_norm(x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor,
                   eps: float = 1e-5, *, scale: Tensor | None = None,
                   dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    """The sum of a residual block and its layer normalisation (arXiv 1607.06450).

    Args:
        x: [B, ..., C].
        branch: [B, ..., C] to add, of any floating-point type; ``None`` adds nothing, and the sum
            is ``x`` itself, or where kernels are differentiated a view of it, whose gradient they
            add to that of the norm.
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
    shape, device = x.shape, x.device
    if len(shape) < 2 or not x.is_floating_point():
        raise ValueError(f"{NAME}: x must be floating-point [B, ..., C], got {x.dtype} "
                         f"{list(shape)}")
    if branch is not None and (branch.shape != shape or not branch.is_floating_point()
                               or branch.device != device):
        raise ValueError(f"{NAME}: branch must be floating-point {list(shape)} on {device}, "
                         f"got {branch.dtype} {list(branch.shape)} on {branch.device}")
    for what, given in (("weight", weight), ("bias", bias)):
        if given.shape != shape[-1:] or given.device != device:
            raise ValueError(f"{NAME}: {what} must be [{shape[-1]}] on {device}, got "
                             f"{list(given.shape)} on {given.device}")
    if scale is not None and (branch is None or scale.shape != shape[:1]):
        raise ValueError(f"{NAME}: scale must be [{shape[0]}] and come with a branch, got "
                         f"{list(scale.shape)}")
    if dtype is None:
        dtype = x.dtype if branch is None else torch.promote_types(x.dtype, branch.dtype)
        if device.type != "cpu" and autocasting(device):
            dtype = torch.promote_types(dtype, torch.float32)
    if not use_triton(NAME, device, can_run_add_layer_norm(x, weight, dtype)):
        return add_layer_norm_reference(x, branch, weight, bias, eps, scale, dtype)
    inputs = x, branch, scale, weight, bias, eps, dtype
    if branch is not None:
        return _forward(*inputs)
    if x.requires_grad and torch.is_grad_enabled() and not tracing():
        return _Alone.apply(*inputs)
    return x, _forward(*inputs)[1]
