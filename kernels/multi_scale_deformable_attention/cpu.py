"""Multi-scale deformable attention in plain torch, tuned.

A result is a bag of pixels: four for each sampled place. So all levels are one ``embedding_bag``
over the rows of ``value``: no sample is ever in memory, and the sizes of the levels stay a tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["multi_scale_deformable_attention_cpu"]


def multi_scale_deformable_attention_cpu(
        value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor,
        sampling_locations: Tensor, attention_weights: Tensor) -> Tensor:
    """Attention over sampled places; coordinates and sums are in float32 at least.

    Arguments and result as
    :func:`fastdet.kernels.multi_scale_deformable_attention.multi_scale_deformable_attention`,
    unchecked, the sizes as tensors on the device of ``value``.
    """
    B, K, heads, d = value.shape
    Q, L, P = sampling_locations.shape[1], *sampling_locations.shape[3:5]
    wide = torch.promote_types(
        torch.promote_types(value.dtype, sampling_locations.dtype), torch.float32)
    H, W = spatial_shapes.view(L, 1, 2).unbind(-1)
    size = torch.stack([W, H], -1).to(wide)

    place = sampling_locations.to(wide) * size - 0.5
    inside = ((place > -1) & (place < size)).all(-1)
    place = place.where(inside.unsqueeze(-1), 0)
    low = place.detach().floor()
    fx, fy = (place - low).unbind(-1)  # with the gradient of the place
    shares = torch.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx], -1)
    shares = shares * attention_weights.to(wide).unsqueeze(-1)

    x, y = low.long().unbind(-1)
    batch = torch.arange(B, device=value.device).view(B, 1, 1, 1, 1) * K
    first = (batch + level_start_index.view(L, 1)) * heads
    first = first + torch.arange(heads, device=value.device).view(heads, 1, 1)
    bags = []
    for cy, cx in ((y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)):
        real = inside & (cy >= 0) & (cy < H) & (cx >= 0) & (cx < W)
        bags.append(torch.where(real, first + (cy * W + cx) * heads, B * K * heads))
    pixels = F.pad(value.reshape(B * K * heads, d).to(wide), (0, 0, 0, 1))  # the last is zero
    n = B * Q * heads
    out = F.embedding_bag(torch.stack(bags, -1).view(n, L * P * 4), pixels, mode="sum",
                          per_sample_weights=shares.reshape(n, L * P * 4))
    return out.view(B, Q, heads * d).to(value.dtype)
