"""GELU, linear layer and residual: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import operator
from ..common import next_power_of_2, optional_empty
from ..dispatch import Reason, use_triton
from ..launch import capability, launch
from .reference import gelu_linear_reference

__all__ = ["can_run_gelu_linear", "gelu_linear"]

#: Widest result: a program holds whole rows of it, in at most 99 KB of shared memory.
_WIDEST = 192


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


def _config(n: int, backward: bool, device: torch.device) -> _Config:
    """Tiles: 64 rows by all channels, in two blocks without waste for 3 * 2^i.

    Deep pipelines, as few programs fit a multiprocessor and each has to keep memory busy.
    """
    n_0, n_1 = next_power_of_2(n, 16), 0
    if n_0 > 32 and n <= n_0 * 3 // 4:
        n_0, n_1 = n_0 // 2, n_0 // 4
    hip = capability(device) == (0, 0)
    warps = 4 if n <= 128 else 8
    if backward:
        return _Config(64, 64, n_0, n_1, warps, 1 if hip else 2)
    return _Config(64, 32, n_0, n_1, warps, 2 if hip else 4 if n <= 128 else 5)


def _rows(x: Tensor) -> tuple[int, int]:
    """Rows, and rows of one sample."""
    rows = x.numel() // x.shape[-1]
    return rows, max(1, rows // max(1, x.shape[0]))


def _out_dtype(hidden: Tensor, residual: Tensor | None) -> torch.dtype:
    return hidden.dtype if residual is None else torch.promote_types(residual.dtype, hidden.dtype)


@operator(
    "gelu_linear",
    "(Tensor hidden, Tensor weight, Tensor? bias, Tensor? residual, Tensor? scale) -> Tensor")
def _forward(hidden: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None,
             scale: Tensor | None) -> Tensor:
    from .kernel import gelu_linear_fwd_kernel

    hidden = hidden.contiguous()
    rows, per_sample = _rows(hidden)
    n, k = weight.shape
    out = hidden.new_empty((*hidden.shape[:-1], n), dtype=_out_dtype(hidden, residual))
    config = _config(n, False, hidden.device)
    launch(gelu_linear_fwd_kernel, (-(-rows // config.block_m),), hidden,
           weight.to(hidden.dtype).contiguous(), hidden if bias is None else bias.contiguous(),
           hidden if residual is None else residual.contiguous(),
           hidden if scale is None else scale.contiguous(), out, rows, per_sample,
           device=hidden.device, N=n, K=k, HAS_BIAS=int(bias is not None),
           HAS_RESIDUAL=int(residual is not None), HAS_SCALE=int(scale is not None),
           BLOCK_M=config.block_m, BLOCK_K=config.block_k, N_0=config.n_0, N_1=config.n_1,
           num_warps=config.num_warps, num_stages=config.num_stages)
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
    from .kernel import gelu_linear_bwd_kernel

    grad, hidden = grad.contiguous(), hidden.contiguous()
    rows, per_sample = _rows(hidden)
    n, k = weight.shape
    dhidden = torch.empty_like(hidden)
    act = optional_empty(hidden, needs_weight)
    # The product of the weight's gradient reads what the kernel read, scaled and rounded.
    apart = (needs_weight or needs_bias) and (grad.dtype != hidden.dtype or scale is not None)
    dout = grad.new_empty(grad.shape if apart else (0,), dtype=hidden.dtype)
    config = _config(n, True, hidden.device)
    launch(gelu_linear_bwd_kernel, (-(-rows // config.block_m),), grad, hidden,
           weight.to(hidden.dtype).contiguous(), hidden if scale is None else scale.contiguous(),
           dhidden, act, dout, rows, per_sample, device=hidden.device, N=n, K=k,
           HAS_SCALE=int(scale is not None), NEEDS_ACT=int(needs_weight), NEEDS_OUT=int(apart),
           BLOCK_M=config.block_m, BLOCK_K=config.block_k, N_0=config.n_0, N_1=config.n_1,
           num_warps=config.num_warps, num_stages=config.num_stages)
    dout = (dout if apart else grad).view(rows, n)
    dweight = dout.T @ act.view(rows, k) if needs_weight else act
    dbias = dout.sum(0) if needs_bias else dout.new_empty(0)
    return dhidden, dweight, dbias


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
    needs = ctx.needs_input_grad
    dhidden, dweight, dbias = _backward(grad, hidden, weight, scale, needs[1],
                                        bias_dtype is not None and needs[2])
    return (dhidden if needs[0] else None, dweight.to(weight.dtype) if needs[1] else None,
            dbias.to(bias_dtype) if needs[2] else None,
            grad.to(residual_dtype) if needs[3] else None, None)


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
    name = "gelu_linear"
    if hidden.dim() < 2 or not hidden.is_floating_point():
        raise ValueError(f"{name}: hidden must be floating-point [B, ..., K], got {hidden.dtype} "
                         f"{list(hidden.shape)}")
    if weight.dim() != 2 or weight.shape[1] != hidden.shape[-1] or weight.device != hidden.device:
        raise ValueError(f"{name}: weight must be [N, {hidden.shape[-1]}] on {hidden.device}, got "
                         f"{list(weight.shape)} on {weight.device}")
    shapes = {"bias": (bias, [weight.shape[0]]),
              "residual": (residual, [*hidden.shape[:-1], weight.shape[0]]),
              "scale": (scale, [hidden.shape[0]])}
    for what, (given, shape) in shapes.items():
        if given is not None and (list(given.shape) != shape or given.device != hidden.device):
            raise ValueError(f"{name}: {what} must be {shape} on {hidden.device}, got "
                             f"{list(given.shape)} on {given.device}")
    if not use_triton(name, hidden.device, can_run_gelu_linear(hidden.dtype, weight.shape[0])):
        return gelu_linear_reference(hidden, weight, bias, residual, scale)
    return _forward(hidden, weight, bias, residual, scale)
