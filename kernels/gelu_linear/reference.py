"""GELU, linear layer and residual in plain torch: definition, CPU path, oracle of the tests."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def gelu_linear_reference(hidden: Tensor, weight: Tensor, bias: Tensor | None,
                          residual: Tensor | None, scale: Tensor | None) -> Tensor:
    """``residual + scale * (gelu(hidden) @ weight^T + bias)``.

    Args:
        hidden: [B, ..., K], before the activation.
        weight: [N, K].
        bias: [N] or ``None``.
        residual: [B, ..., N] or ``None``.
        scale: [B] factors on the samples of the product, or ``None``.

    Returns:
        [B, ..., N].
    """
    dtype = hidden.dtype
    out = F.linear(F.gelu(hidden), weight.to(dtype), None if bias is None else bias.to(dtype))
    if scale is not None:
        out = out * scale.to(out.dtype).view(-1, *[1] * (out.dim() - 1))
    return out if residual is None else residual + out
