"""What a map is worth between its pixels: the definition that sampling operators share."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bilinear"]


def bilinear(maps: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Values of maps at places between their pixels, zero outside.

    A place counts if it lies strictly within one pixel of the map; one that does not, NaN too,
    has no gradient. On a pixel the gradient is that of the side below and to the right.

    Args:
        maps: [N, H, W, C].
        y: [N, S] rows, in pixels from the centre of the first.
        x: [N, S] columns.

    Returns:
        [N, S, C].
    """
    N, H, W, _ = maps.shape
    counts = (y > -1) & (y < H) & (x > -1) & (x < W)
    y, x = y.where(counts, 0), x.where(counts, 0)
    top, left = y.detach().floor(), x.detach().floor()
    image = torch.arange(N, device=maps.device).unsqueeze(1)
    total = maps.new_zeros(())
    for row, down in ((top, 1 - (y - top)), (top + 1, y - top)):
        for column, across in ((left, 1 - (x - left)), (left + 1, x - left)):
            inside = counts & (row >= 0) & (row < H) & (column >= 0) & (column < W)
            pixel = maps[image, row.where(inside, 0).long(), column.where(inside, 0).long()]
            share = (down * across).where(inside, 0)
            total = total + share.unsqueeze(-1) * pixel.where(inside.unsqueeze(-1), 0)
    return total
