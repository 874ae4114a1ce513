"""Grid priors in plain torch: the definition, and the tests' oracle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["grid_anchors_reference", "grid_points_reference"]


def grid_anchors_reference(base_anchors: Tensor, counts: Sequence[int],
                           sizes: Sequence[tuple[int, int]],
                           strides: Sequence[tuple[float, float]]) -> Tensor:
    """Anchors of every cell of every level; arguments as of :func:`grid_anchors`.

    Every step rounds to the data type: the index, its product with the stride (which torch
    computes in float32 from the unrounded stride), and the sum with the base anchor.
    """
    levels = []
    for base, (h, w), (stride_x, stride_y) in zip(base_anchors.split(list(counts)), sizes, strides):
        x = torch.arange(w, device=base.device).to(base.dtype) * stride_x
        y = torch.arange(h, device=base.device).to(base.dtype) * stride_y
        x, y = x.expand(h, w), y[:, None].expand(h, w)
        shifts = torch.stack([x, y, x, y], -1)
        levels.append((base + shifts[:, :, None]).view(-1, 4))
    return torch.cat(levels) if levels else base_anchors.new_empty(0, 4)


def grid_points_reference(sizes: Sequence[tuple[int, int]],
                          strides: Sequence[tuple[float, float]], offset: float,
                          stride_columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A point for every cell of every level; arguments as of :func:`grid_points`.

    ``(index + offset) * stride`` in float32, rounded once to the data type, as the stride is.
    """
    levels = [torch.empty(0, 2 + stride_columns, dtype=dtype, device=device)]
    for (h, w), (stride_x, stride_y) in zip(sizes, strides):
        x = (torch.arange(w, dtype=torch.float32, device=device) + offset) * stride_x
        y = (torch.arange(h, dtype=torch.float32, device=device) + offset) * stride_y
        columns = [x.to(dtype).expand(h, w), y.to(dtype)[:, None].expand(h, w)]
        columns += [torch.full((h, w), stride, dtype=dtype, device=device)
                    for stride in (stride_x, stride_y)[:stride_columns]]
        levels.append(torch.stack(columns, -1).view(-1, 2 + stride_columns))
    return torch.cat(levels)
