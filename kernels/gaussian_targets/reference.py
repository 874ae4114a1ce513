"""Gaussian targets in plain torch: the definition, the CPU path and the oracle of the tests."""

from __future__ import annotations

import math
import mmap
from typing import Any

import torch
from torch import Tensor


def gaussian_radius(height: Any, width: Any, min_overlap: Any) -> Any:
    """Largest shift of a box's corners that keeps ``min_overlap`` IoU (CornerNet, section 3.3).

    Python numbers are computed in double; tensors in their own data type, element by element, in
    the order in which MMDetection computes them, because the result is truncated later.
    """
    sqrt = torch.sqrt if isinstance(height, Tensor) else math.sqrt
    smaller = torch.minimum if isinstance(height, Tensor) else min
    total = height + width
    # One corner inside the box, one outside.
    c1 = width * height * (1 - min_overlap) / (1 + min_overlap)
    r1 = (total - sqrt(total * total - 4 * c1)) / 2
    # Both inside.
    b2 = 2 * total
    c2 = (1 - min_overlap) * width * height
    r2 = (b2 - sqrt(b2 * b2 - 16 * c2)) / 8
    # Both outside.
    a3 = 4 * min_overlap
    b3 = -2 * min_overlap * total
    c3 = (min_overlap - 1) * width * height
    r3 = (b3 + sqrt(b3 * b3 - 4 * a3 * c3)) / (2 * a3)
    return smaller(smaller(r1, r2), r3)


def zeros(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A zero tensor; a large one on the CPU is mapped, not written.

    A batch of heatmaps is tens of megabytes of which the discs touch a few per cent, and writing
    the zeros would be most of the work. Pages of a private anonymous mapping are zero when touched.
    """
    nbytes = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or nbytes < 1 << 20 or not hasattr(mmap, "MAP_PRIVATE"):
        return torch.zeros(shape, dtype=dtype, device=device)
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def _divide(x: Tensor, y: Tensor) -> Tensor:
    """``x / y`` with the rounding that torch gives a division by a Python number there."""
    return x * y.reciprocal() if x.is_cuda else x / y


def gaussian_values(dx: Tensor, dy: Tensor, radius: Tensor, k: float, dtype: torch.dtype) -> Tensor:
    """The gaussians' values at integer offsets from their centres, rounded step by step.

    Args:
        dx, dy: int64 offsets, ``|dx|, |dy| <= radius``.
        radius: int64 radii, one per element.
        k: the height.
        dtype: what the heatmap is in; each step is rounded to it.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, y = dx.to(dtype), dy.to(dtype)
    square = x * x + y * y
    sigma = (2 * radius + 1).double() / 6
    exponent = _divide(-square.to(wide), (2 * sigma * sigma).to(wide)).to(dtype)
    value = exponent.exp()
    # The peak is 1, so MMDetection's cut at eps * peak is a cut at eps.
    value = value.masked_fill(value < torch.finfo(dtype).eps, 0)
    return value * k


def draw(heatmap: Tensor, discs: Tensor, image: Tensor, k: float = 1) -> Tensor:
    """Raise a heatmap to the gaussians of all discs, in place.

    Args:
        heatmap: [B, C, H, W], written in place.
        discs: [N, 4] integers: class, x, y, radius.
        image: [N] the image of each disc.
        k: height of the gaussians.

    Returns:
        Flat indices (into a contiguous [B, C, H, W]) of the elements that a disc covers.
    """
    _, c, h, w = heatmap.shape
    label, cx, cy, radius = discs.long().unbind(1)
    side = 2 * radius + 1
    disc = torch.repeat_interleave(side * side)
    first = (side * side).cumsum(0) - side * side
    at = torch.arange(disc.numel(), device=disc.device) - first[disc]
    side, radius = side[disc], radius[disc]
    dy = torch.div(at, side, rounding_mode="floor")
    dx = at - dy * side - radius
    dy = dy - radius
    x, y = cx[disc] + dx, cy[disc] + dy
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    dx, dy, x, y, radius, disc = (t[inside] for t in (dx, dy, x, y, radius, disc))
    value = gaussian_values(dx, dy, radius, k, heatmap.dtype)
    index = ((image[disc] * c + label[disc]) * h + y) * w + x
    if heatmap.is_contiguous():
        heatmap.view(-1).scatter_reduce_(0, index, value, "amax")
    else:
        flat = heatmap.reshape(-1).scatter_reduce_(0, index, value, "amax")
        heatmap.copy_(flat.view(heatmap.shape))
    return index


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
    groups = values.shape[1] // 2
    out = zeros(groups, b, 2, h * w, dtype=dtype, device=discs.device)
    _, x, y, _ = discs.long().unbind(1)
    on_map = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    cell = ((image * h + y) * w + x)[on_map]
    # Scatter has no order, so find the last disc of each cell first.
    order = torch.arange(cell.numel(), device=cell.device)
    last = torch.full((b * h * w,), -1, device=cell.device).scatter_reduce_(0, cell, order, "amax")
    wins = last[cell] == order
    planes = values[on_map][wins].to(dtype).view(-1, groups, 2).permute(1, 0, 2)
    flat = cell[wins]
    out[:, flat // (h * w), :, flat % (h * w)] = planes.transpose(0, 1)
    return out.view(groups, b, 2, h, w)


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
