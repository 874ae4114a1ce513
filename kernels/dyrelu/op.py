"""Dynamic ReLU: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..autograd import operator
from ..common import dtype_reason
from ..dispatch import Reason, use_triton
from ..launch import launch
from .reference import dyrelu_reference

__all__ = ["can_run_dyrelu", "dyrelu"]

FWD_BLOCK, BWD_BLOCK = 2048, 1024


def can_run_dyrelu(x: Tensor, coeffs: Tensor) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    return dtype_reason(x, coeffs)


@operator("dyrelu", "(Tensor x, Tensor coeffs) -> Tensor")
def _forward(x: Tensor, coeffs: Tensor) -> Tensor:
    from .kernel import dyrelu_fwd_kernel

    b, c, h, w = x.shape
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    launch(dyrelu_fwd_kernel, (b * c, -(-h * w // FWD_BLOCK)), x.contiguous(), coeffs.contiguous(),
           out, c, h * w, device=x.device, BLOCK=FWD_BLOCK, num_warps=4)
    return out


@_forward.register_fake
def _(x: Tensor, coeffs: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@operator("dyrelu_backward", "(Tensor grad, Tensor x, Tensor coeffs) -> (Tensor, Tensor)")
def _backward(grad: Tensor, x: Tensor, coeffs: Tensor) -> tuple[Tensor, Tensor]:
    from .kernel import dyrelu_bwd_kernel

    b, c, h, w = x.shape
    dx = torch.empty_like(x, memory_format=torch.contiguous_format)
    dcoeffs = torch.empty_like(coeffs, memory_format=torch.contiguous_format)
    launch(dyrelu_bwd_kernel, (b * c,), x.contiguous(), coeffs.contiguous(), grad.contiguous(), dx,
           dcoeffs, c, h * w, device=x.device, BLOCK=BWD_BLOCK, num_warps=4)
    return dx, dcoeffs


@_backward.register_fake
def _(grad: Tensor, x: Tensor, coeffs: Tensor) -> tuple[Tensor, Tensor]:
    return (torch.empty_like(x, memory_format=torch.contiguous_format),
            torch.empty_like(coeffs, memory_format=torch.contiguous_format))


def _setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    return _backward(grad, *ctx.saved_tensors)


_forward.register_autograd(_autograd, setup_context=_setup_context)


def dyrelu(x: Tensor, coeffs: Tensor) -> Tensor:
    """Dynamic ReLU (DY-ReLU-B, arXiv 2003.10027, with two lines): max(a1 x + b1, a2 x + b2).

    Args:
        x: [B, C, H, W].
        coeffs: [B, 4C] in [0, 1], what the hyper function's sigmoid gave: a1, b1, a2, b2 of all
            channels. Each is centred by -0.5; the slopes are then 2 a1 + 1 and 2 a2.

    Returns:
        [B, C, H, W], contiguous.

    Raises:
        ValueError: shapes, data types or devices do not fit.
        BackendError: the triton backend was asked for by name and cannot take the call.
    """
    if x.dim() != 4 or not x.is_floating_point():
        raise ValueError(f"dyrelu: x must be floating-point [B, C, H, W], got {x.dtype} "
                         f"{list(x.shape)}")
    if list(coeffs.shape) != [x.shape[0], 4 * x.shape[1]] or coeffs.device != x.device:
        raise ValueError(f"dyrelu: coeffs must be {[x.shape[0], 4 * x.shape[1]]} on {x.device} for "
                         f"x {list(x.shape)}, got {list(coeffs.shape)} on {coeffs.device}")
    if not use_triton("dyrelu", x.device, can_run_dyrelu(x, coeffs)):
        return dyrelu_reference(x, coeffs)
    return _forward(x, coeffs)
