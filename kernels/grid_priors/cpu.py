"""Grid priors on the CPU: a level is the sum of two small tables, which are kept.

x1, x2 depend on (x, anchor) alone and y1, y2 on (y, anchor): two tables, each zero in the other's
columns, whose broadcasted sum is the level, and exact. What is kept is known by value and never
handed out, so that nothing a caller does to a result can show in another.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..pyramid import level_rows, split_levels

__all__ = ["grid_anchors_cpu", "grid_points_cpu"]

#: Tables kept: two for each level of a size, about 30 KB for the longest of RetinaNet's.
KEPT = 64


@lru_cache(KEPT)
def _anchor_table(base: bytes, dtype: torch.dtype, n: int, stride: float, axis: int) -> Tensor:
    """[n, A * 4]: the anchors of ``n`` cells along ``axis`` (0: x), zero in the other's columns."""
    boxes = torch.frombuffer(bytearray(base), dtype=dtype).view(-1, 2, 2)
    shift = torch.arange(n, device="cpu").to(dtype) * stride
    table = torch.zeros(n, *boxes.shape, dtype=dtype, device="cpu")
    table[..., axis] = boxes[..., axis] + shift[:, None, None]
    return table.view(n, -1)


def grid_anchors_cpu(base_anchors: Tensor, counts: Sequence[int],
                     sizes: Sequence[tuple[int, int]],
                     strides: Sequence[tuple[float, float]]) -> Tensor:
    """:func:`grid_anchors_reference`, bit for bit."""
    rows, dtype = level_rows(sizes, counts), base_anchors.dtype
    out = base_anchors.new_empty(sum(rows), 4)
    levels = zip(split_levels(out, rows), base_anchors.split(list(counts)), sizes, strides)
    for anchors, base, (h, w), (stride_x, stride_y) in levels:
        if anchors.numel() == 0:
            continue
        value = base.contiguous().view(torch.uint8).numpy().tobytes()
        x = _anchor_table(value, dtype, w, stride_x, 0)
        y = _anchor_table(value, dtype, h, stride_y, 1)
        torch.add(x, y[:, None], out=anchors.view(h, w, -1))
    return out


@lru_cache(KEPT)
def _point_table(n: int, stride: float, offset: float, axis: int, columns: int,
                 dtype: torch.dtype) -> Tensor:
    """[n, columns]: what depends on the cell's place along ``axis``, and its stride."""
    table = torch.zeros(n, columns, dtype=dtype, device="cpu")
    table[:, axis] = (torch.arange(n, dtype=torch.float32, device="cpu") + offset) * stride
    table[:, 2 + axis:3 + axis] = stride
    return table


def grid_points_cpu(sizes: Sequence[tuple[int, int]], strides: Sequence[tuple[float, float]],
                    offset: float, stride_columns: int, dtype: torch.dtype) -> Tensor:
    """:func:`grid_points_reference`, bit for bit."""
    rows, columns = level_rows(sizes, [1] * len(sizes)), 2 + stride_columns
    out = torch.empty(sum(rows), columns, dtype=dtype, device="cpu")
    for points, (h, w), (stride_x, stride_y) in zip(split_levels(out, rows), sizes, strides):
        if points.numel():
            x = _point_table(w, stride_x, offset, 0, columns, dtype)
            y = _point_table(h, stride_y, offset, 1, columns, dtype)
            torch.add(x, y[:, None], out=points.view(h, w, columns))
    return out
