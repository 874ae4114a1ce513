"""A linear layer, in one pass with the GELU or the sum that follows it where oneDNN runs it.

On a CPU torch hands float32 products to the BLAS it was built with. oneDNN's are faster at the
tall operands of transformers, and write what follows while the tile is still in registers. Half
types go to oneDNN by themselves, float64 it does not know.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

from .dispatch import tracing

__all__ = ["linear"]

_PLAIN = (Tensor, torch.nn.Parameter)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False,
             residual: Tensor | None = None) -> Tensor:
    """By oneDNN, with no graph."""
    if residual is not None:
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, bias, "add")
    return torch.ops.mkldnn._linear_pointwise(
        x, weight, bias, *(("gelu", [], "none") if gelu else ("none", [], "")))


class _Linear(Function):
    """The same with a gradient, whose product with the weight is oneDNN's too.

    That with the input stays with the BLAS, which is faster at short and wide results.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None,
                residual: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias, residual=residual)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, needs_residual = ctx.needs_input_grad
        return (linear(grad, weight.t()) if needs_x else None,
                grad.t() @ x if needs_weight else None,
                grad.sum(0) if needs_bias else None,
                grad if needs_residual else None)


def _by_onednn(x: Tensor, weight: Tensor, residual: Tensor | None) -> bool:
    return (not tracing() and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32
            and type(x) in _PLAIN and type(weight) in _PLAIN and x.numel() > 0
            and (residual is None or (residual.dtype == x.dtype
                 and residual.shape == (*x.shape[:-1], weight.shape[0])))
            and bool(torch.backends.mkldnn.enabled) and torch.backends.mkldnn.is_available()
            and not torch.is_autocast_enabled("cpu"))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False,
           residual: Tensor | None = None) -> Tensor:
    """``residual + gelu(x @ weight.T + bias)``; twice differentiable.

    Args:
        x: ``[..., K]``.
        weight: ``[N, K]``.
        bias: ``[N]``.
        gelu: whether the exact GELU follows the sum with the bias.
        residual: ``[..., N]``, added last.

    Returns:
        ``[..., N]``.
    """
    if not _by_onednn(x, weight, residual):
        out = F.linear(x, weight, bias)
        if gelu:
            out = F.gelu(out)
        return out if residual is None else residual + out
    shape = (*x.shape[:-1], weight.shape[0])
    # Rows, so that no result is a view made inside a Function, which none may write in place.
    x = x.reshape(-1, x.shape[-1])
    added = None if gelu or residual is None else residual.reshape(-1, weight.shape[0])
    if torch.is_grad_enabled() and any(
            t is not None and t.requires_grad for t in (x, weight, bias, added)):
        out = _Linear.apply(x, weight, bias, added).view(shape)
        out = F.gelu(out) if gelu else out
    else:
        out = _product(x, weight, bias, gelu, added).view(shape)
    return residual + out if gelu and residual is not None else out
