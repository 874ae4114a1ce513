"""Gaussian targets in plain torch, disc by disc: the definition and the oracle of the tests."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def _sqrt(x: Any) -> Any:
    """Correctly rounded, which ``torch.sqrt`` of float32 is not on every CPU."""
    return x.double().sqrt().to(x.dtype) if isinstance(x, Tensor) else math.sqrt(x)


def gaussian_radius(height: Any, width: Any, min_overlap: Any) -> Any:
    """Largest shift of a box's corners that keeps ``min_overlap`` IoU (CornerNet, section 3.3).

    Python numbers are computed in double; tensors in their own data type, element by element, in
    the order in which MMDetection computes them, because the result is truncated later.
    """
    smaller = torch.minimum if isinstance(height, Tensor) else min
    total = height + width
    # One corner inside the box, one outside.
    c1 = width * height * (1 - min_overlap) / (1 + min_overlap)
    r1 = (total - _sqrt(total * total - 4 * c1)) / 2
    # Both inside.
    b2 = 2 * total
    c2 = (1 - min_overlap) * width * height
    r2 = (b2 - _sqrt(b2 * b2 - 16 * c2)) / 8
    # Both outside.
    a3 = 4 * min_overlap
    b3 = -2 * min_overlap * total
    c3 = (min_overlap - 1) * width * height
    r3 = (b3 + _sqrt(b3 * b3 - 4 * a3 * c3)) / (2 * a3)
    return smaller(smaller(r1, r2), r3)


def gaussian_disc(radius: int, sigma: float, dtype: torch.dtype,
                  device: torch.device | str) -> Tensor:
    """exp(-d^2 / (2 sigma^2)) on [2 radius + 1, 2 radius + 1], zero below eps times its peak."""
    side = torch.arange(-radius, radius + 1, dtype=dtype, device=device)
    square = side * side + (side * side)[:, None]
    disc = (-square / (2 * sigma * sigma)).exp()
    return disc.masked_fill(disc < torch.finfo(dtype).eps * disc.max(), 0)


def draw(heatmap: Tensor, discs: Tensor, image: Tensor, k: float = 1) -> None:
    """Raise a heatmap to the gaussians of all discs, in place.

    Args:
        heatmap: [B, C, H, W], written in place.
        discs: [N, 4] integers: class, x, y, radius.
        image: [N] the image of each disc.
        k: height of the gaussians.
    """
    h, w = heatmap.shape[2:]
    for (label, x, y, radius), b in zip(discs.tolist(), image.tolist()):
        disc = gaussian_disc(radius, (2 * radius + 1) / 6, heatmap.dtype, heatmap.device) * k
        top, bottom = max(0, y - radius), min(h, y + radius + 1)
        left, right = max(0, x - radius), min(w, x + radius + 1)
        if top < bottom and left < right:
            first_y, first_x = y - radius, x - radius
            part = disc[top - first_y:bottom - first_y, left - first_x:right - first_x]
            cells = heatmap[b, label, top:bottom, left:right]
            cells.copy_(torch.maximum(cells, part))


def cells(discs: Tensor, image: Tensor, values: Tensor, shape: tuple[int, int, int],
          dtype: torch.dtype) -> Tensor:
    """Planes that hold each disc's values at its centre; the later of two discs wins.

    Args:
        discs: [N, 4] integers: class, x, y, radius.
        image: [N] the image of each disc.
        values: [N, 2 G] what to write.
        shape: (B, H, W).
        dtype: of the planes.

    Returns:
        [G, B, 2, H, W], zero where no centre is.
    """
    b, h, w = shape
    out = torch.zeros(values.shape[1] // 2, b, 2, h, w, dtype=dtype, device=discs.device)
    for (_, x, y, _), i, value in zip(discs.tolist(), image.tolist(), values):
        if 0 <= x < w and 0 <= y < h:
            out[:, i, :, y, x] = value.to(dtype).view(-1, 2)
    return out


def centernet_discs(boxes: Tensor, labels: Tensor, width_ratio: float, height_ratio: float,
                    min_overlap: float) -> tuple[Tensor, Tensor]:
    """Discs ([N, 4] int32) and cell values ([N, 6]: w, h, dx, dy, 1, 1) of CenterNet's targets."""
    x1, y1, x2, y2 = boxes.unbind(1)
    cx, cy = (x1 + x2) * width_ratio / 2, (y1 + y2) * height_ratio / 2
    w, h = (x2 - x1) * width_ratio, (y2 - y1) * height_ratio
    radius = gaussian_radius(h, w, min_overlap).int().clamp(min=0)
    x, y, one = cx.int(), cy.int(), torch.ones_like(cx)
    discs = torch.stack([labels.int(), x, y, radius], 1)
    return discs, torch.stack([w, h, cx - x, cy - y, one, one], 1)
