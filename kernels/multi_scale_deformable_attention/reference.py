"""Multi-scale deformable attention as it is defined (arXiv 2010.04159): the oracle of the tests."""

from __future__ import annotations

import torch
from torch import Tensor

from ..sampling import bilinear

__all__ = ["multi_scale_deformable_attention_reference"]


def multi_scale_deformable_attention_reference(
        value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor,
        sampling_locations: Tensor, attention_weights: Tensor) -> Tensor:
    """Level by level: sample, weigh, add. Coordinates and sums are in float32 at least.

    Arguments and result as
    :func:`fastdet.kernels.multi_scale_deformable_attention.multi_scale_deformable_attention`,
    unchecked, the sizes as tensors.
    """
    B, _, heads, d = value.shape
    Q, L, P = sampling_locations.shape[1], *sampling_locations.shape[3:5]
    wide = torch.promote_types(
        torch.promote_types(value.dtype, sampling_locations.dtype), torch.float32)
    out = torch.zeros(B * heads, Q, d, dtype=wide, device=value.device)
    for level, (h, w), start in zip(range(L), spatial_shapes.tolist(), level_start_index.tolist()):
        maps = value[:, start:start + h * w].to(wide).transpose(1, 2).reshape(B * heads, h, w, d)
        places = sampling_locations[:, :, :, level].to(wide).transpose(1, 2).reshape(
            B * heads, Q * P, 2)
        weights = attention_weights[:, :, :, level].to(wide).transpose(1, 2).reshape(
            B * heads, Q, P, 1)
        samples = bilinear(maps, places[..., 1] * h - 0.5, places[..., 0] * w - 0.5)
        out = out + (weights * samples.view(B * heads, Q, P, d)).sum(2)
    return out.view(B, heads, Q, d).transpose(1, 2).reshape(B, Q, heads * d).to(value.dtype)
