"""Grid priors in plain torch: the definition, the CPU path and the tests' oracle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .levels import level_rows, split_levels

__all__ = ["grid_anchors_reference", "grid_points_reference"]


def grid_anchors_reference(base_anchors: Tensor, counts: Sequence[int],
                           sizes: Sequence[tuple[int, int]],
                           strides: Sequence[tuple[float, float]]) -> Tensor:
    """Anchors of every cell of every level; arguments as of :func:`grid_anchors`.

    Every step rounds to the data type: the index, its product with the stride (which torch
    computes in float32 from the unrounded stride), and the sum with the base anchor.
    """
    rows = level_rows(sizes, counts)
    out = base_anchors.new_empty(sum(rows), 4)
    levels = zip(split_levels(out, rows), base_anchors.split(list(counts)), sizes, strides)
    for anchors, base, size, stride in levels:
        h, w, a = *size, len(base)
        # x1, x2 depend on (x, anchor) alone and y1, y2 on (y, anchor): two small tables, each
        # zero in the other's columns, whose broadcasted (and exact) sum is the level.
        tables = []
        for c, n in ((0, w), (1, h)):
            shift = torch.arange(n, device=out.device).to(out.dtype) * stride[c]
            table = out.new_zeros(n, a, 2, 2)
            table[..., c] = shift[:, None, None] + base.view(a, 2, 2)[..., c]
            tables.append(table.view(n, 4 * a))
        torch.add(tables[0], tables[1][:, None], out=anchors.view(h, w, 4 * a))
    return out


def grid_points_reference(sizes: Sequence[tuple[int, int]],
                          strides: Sequence[tuple[float, float]], offset: float,
                          stride_columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A point for every cell of every level; arguments as of :func:`grid_points`.

    ``(index + offset) * stride`` in float32, rounded once to the data type.
    """
    rows = level_rows(sizes, [1] * len(sizes))
    out = torch.empty(sum(rows), 2 + stride_columns, dtype=dtype, device=device)
    for points, (h, w), stride in zip(split_levels(out, rows), sizes, strides):
        grid = points.view(h, w, 2 + stride_columns)
        for c, n in enumerate((w, h)):
            index = torch.arange(n, dtype=torch.float32, device=device)
            at = (index + offset) * stride[c]
            grid[..., c] = at if c == 0 else at[:, None]
        for c in range(stride_columns):
            grid[..., 2 + c] = stride[c]
    return out
