"""Residual sum and layer normalisation in plain torch: the definition, and the CPU path."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def add_layer_norm_reference(x: Tensor, branch: Tensor | None, weight: Tensor, bias: Tensor,
                             eps: float, scale: Tensor | None, dtype: torch.dtype
                             ) -> tuple[Tensor, Tensor]:
    """``x + scale * branch``, and its layer normalisation.

    Args:
        x: [B, ..., C].
        branch: [B, ..., C], or ``None``: the sum is then ``x`` itself.
        weight: [C].
        bias: [C].
        eps: added to the variance.
        scale: [B] factors on the samples of ``branch``, or ``None``.
        dtype: of the normalised tensor.

    Returns:
        The sum and the normalised tensor.
    """
    if branch is not None:
        if scale is not None:
            branch = branch * scale.to(branch.dtype).view(-1, *[1] * (branch.dim() - 1))
        x = x + branch
    wide = torch.promote_types(x.dtype, weight.dtype)
    normed = F.layer_norm(x.to(wide), weight.shape, weight.to(wide), bias.to(wide), eps)
    return x, normed.to(dtype)
