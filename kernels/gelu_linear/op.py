"""GELU, linear layer and residual: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import operator
from ..common import next_power_of_2, options
from ..dispatch import Reason, use_triton
from ..launch import Prepared, Program, capability
from .reference import gelu_linear_reference

__all__ = ["can_run_gelu_linear", "gelu_linear"]

NAME = "gelu_linear"

#: Widest result: a program holds whole rows of it, in registers and 100 KB of shared memory.
_WIDEST = 384


def can_run_gelu_linear(dtype: torch.dtype, channels: int) -> Reason | None:
    """Why the Triton kernels cannot make ``channels`` of a hidden tensor of ``dtype``, if so."""
    if dtype not in (torch.float16, torch.bfloat16):
        return f"its kernels take float16 and bfloat16, not {str(dtype)[6:]}"
    if not 16 <= channels <= _WIDEST:
        return (f"its kernels make 16 to {_WIDEST} channels, not {channels}: for more, the "
                "product alone decides")
    return None


class _Config(NamedTuple):
    block_m: int
    block_k: int
    n_0: int  # channels of the first block
    n_1: int  # of the second, or 0
    num_warps: int
    num_stages: int


def _config(n: int, backward: bool, hip: bool) -> _Config:
    """Tiles: 64 rows by all channels, in two blocks without waste for 3 * 2^i.

    Deep pipelines, as few programs fit a multiprocessor and each has to keep memory busy; as deep
    as shared memory allows where a stage holds more than 192 channels of the weight.
    """
    wide = n > 192
    n_0, n_1 = next_power_of_2(n, 16), 0
    if n_0 > 32 and n <= n_0 * 3 // 4:
        n_0, n_1 = n_0 // 2, n_0 // 4
    warps = 4 if n <= 128 else 8
    if backward:
        return _Config(64, 32 if wide else 64, n_0, n_1, warps, 1 if hip else 2)
    stages = 2 if hip else 3 if wide else 5 if n > 128 else 4
    return _Config(64, 32, n_0, n_1, warps, stages)


@lru_cache(maxsize=512)
def _plan(kind: str, hidden: torch.Size, n: int, hip: bool, **has: int) -> Prepared:
    """``fwd`` or ``bwd``, with rows and rows of a sample."""
    from . import kernel

    rows = math.prod(hidden[:-1])
    config = _config(n, kind == "bwd", hip)
    program = Program(getattr(kernel, f"gelu_linear_{kind}_kernel"), N=n, K=hidden[-1],
                      N_0=config.n_0, N_1=config.n_1, **has, **options(config))
    return program.at((-(-rows // config.block_m),), rows, max(1, rows // max(1, hidden[0])))


def _hip(x: Tensor) -> bool:
    return capability(x.device) == (0, 0)


def _as(t: Tensor, dtype: torch.dtype) -> Tensor:
    """``t.to(dtype)``, which takes long to find that there is nothing to do."""
    return t if t.dtype == dtype else t.to(dtype)


def _out_dtype(hidden: Tensor, residual: Tensor | None) -> torch.dtype:
    return hidden.dtype if residual is None else torch.promote_types(residual.dtype, hidden.dtype)


@operator(
    "gelu_linear",
    "(Tensor hidden, Tensor weight, Tensor? bias, Tensor? residual, Tensor? scale) -> Tensor")
def _forward(hidden: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None,
             scale: Tensor | None) -> Tensor:
    hidden, n = hidden.contiguous(), weight.shape[0]
    out = hidden.new_empty((*hidden.shape[:-1], n), dtype=_out_dtype(hidden, residual))
    fwd = _plan("fwd", hidden.shape, n, _hip(hidden), HAS_BIAS=int(bias is not None),
                HAS_RESIDUAL=int(residual is not None), HAS_SCALE=int(scale is not None))
    fwd(hidden, _as(weight, hidden.dtype).contiguous(),
        hidden if bias is None else bias.contiguous(),
        hidden if residual is None else residual.contiguous(),
        hidden if scale is None else scale.contiguous(), out, device=hidden.device)
    return out


@_forward.register_fake
def _(hidden: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None,
      scale: Tensor | None) -> Tensor:
    return hidden.new_empty((*hidden.shape[:-1], weight.shape[0]),
                            dtype=_out_dtype(hidden, residual))


@operator(
    "gelu_linear_backward",
    "(Tensor grad, Tensor hidden, Tensor weight, Tensor? scale, bool needs_weight, "
    "bool needs_bias) -> (Tensor, Tensor, Tensor)")
def _backward(grad: Tensor, hidden: Tensor, weight: Tensor, scale: Tensor | None,
              needs_weight: bool, needs_bias: bool) -> tuple[Tensor, Tensor, Tensor]:
    grad, hidden = grad.contiguous(), hidden.contiguous()
    n, k = weight.shape
    dhidden = torch.empty_like(hidden)
    act = torch.empty_like(hidden) if needs_weight else hidden
    # The product of the weight's gradient reads what the kernel read, scaled and rounded.
    apart = (needs_weight or needs_bias) and (grad.dtype != hidden.dtype or scale is not None)
    dout = torch.empty_like(grad, dtype=hidden.dtype) if apart else grad
    bwd = _plan("bwd", hidden.shape, n, _hip(hidden), HAS_SCALE=int(scale is not None),
                NEEDS_ACT=int(needs_weight), NEEDS_OUT=int(apart))
    bwd(grad, hidden, _as(weight, hidden.dtype).contiguous(),
        hidden if scale is None else scale.contiguous(), dhidden, act, dout, device=hidden.device)
    dout = dout.view(-1, n)
    return (dhidden, dout.T @ act.view(-1, k) if needs_weight else hidden.new_empty(0),
            dout.sum(0) if needs_bias else hidden.new_empty(0))


@_backward.register_fake
def _(grad: Tensor, hidden: Tensor, weight: Tensor, scale: Tensor | None, needs_weight: bool,
      needs_bias: bool) -> tuple[Tensor, Tensor, Tensor]:
    return (hidden.new_empty(hidden.shape),
            hidden.new_empty(weight.shape if needs_weight else (0,)),
            hidden.new_empty(weight.shape[:1] if needs_bias else (0,)))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    hidden, weight, bias, residual, scale = inputs
    ctx.save_for_backward(hidden, weight, scale)
    ctx.dtypes = (None if bias is None else bias.dtype, None if residual is None
                  else residual.dtype)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    hidden, weight, scale = ctx.saved_tensors
    bias_dtype, residual_dtype = ctx.dtypes
    needs_hidden, needs_weight, needs_bias, needs_residual, _ = ctx.needs_input_grad
    dhidden, dweight, dbias = _backward(grad, hidden, weight, scale, needs_weight, needs_bias)
    return (dhidden if needs_hidden else None,
            _as(dweight, weight.dtype) if needs_weight else None,
            _as(dbias, bias_dtype) if needs_bias else None,
            _as(grad, residual_dtype) if needs_residual else None, None)


_forward.register_autograd(_autograd, setup_context=_setup_context)


def gelu_linear(hidden: Tensor, weight: Tensor, bias: Tensor | None = None,
                residual: Tensor | None = None, *, scale: Tensor | None = None) -> Tensor:
    """``residual + scale * (gelu(hidden) @ weight^T + bias)``, with the GELU of the error function.

    The activated tensor is not stored, and not kept for the backward pass. As under autocast,
    the product is of the type of ``hidden``, whatever that of the weight.

    Args:
        hidden: [B, ..., K], before the activation (GELU, arXiv 1606.08415).
        weight: [N, K].
        bias: [N].
        residual: [B, ..., N] to add.
        scale: [B] factors on the samples of the product, as stochastic depth draws them; they get
            no gradient.

    Returns:
        [B, ..., N], of the type that torch promotes the residual's and that of ``hidden`` to.

    Raises:
        ValueError: shapes, data types or devices do not fit.
        BackendError: the triton backend was asked for by name and cannot take the call.
    """
    shape, device, n = hidden.shape, hidden.device, weight.shape[:1]
    if len(shape) < 2 or not hidden.is_floating_point():
        raise ValueError(f"{NAME}: hidden must be floating-point [B, ..., K], got {hidden.dtype} "
                         f"{list(shape)}")
    if weight.shape != n + shape[-1:] or weight.device != device:
        raise ValueError(f"{NAME}: weight must be [N, {shape[-1]}] on {device}, got "
                         f"{list(weight.shape)} on {weight.device}")
    for what, given, wanted in (("bias", bias, n), ("residual", residual, shape[:-1] + n),
                                ("scale", scale, shape[:1])):
        if given is not None and (given.shape != wanted or given.device != device):
            raise ValueError(f"{NAME}: {what} must be {list(wanted)} on {device}, got "
                             f"{list(given.shape)} on {given.device}")
    if not use_triton(NAME, device, can_run_gelu_linear(hidden.dtype, n[0])):
        return gelu_linear_reference(hidden, weight, bias, residual, scale)
    return _forward(hidden, weight, bias, residual, scale)
