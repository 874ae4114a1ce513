"""Gaussian targets without a loop over discs, and one disc in a few operations; bit for bit the
reference. The path of the CPU, and in plain torch of any device, where nothing waits for it.
"""

from __future__ import annotations

import math
import mmap
from functools import lru_cache

import torch
from torch import Tensor

from ..dispatch import tracing
from .reference import gaussian_disc

#: The largest radius of which the disc is kept: 66 KB in float32.
KEPT_RADIUS = 64


@lru_cache(64)
def _kept_disc(radius: int, dtype: torch.dtype) -> Tensor:
    """The disc of a radius, which nobody else gets to see."""
    return gaussian_disc(radius, (2 * radius + 1) / 6, dtype, "cpu")


def draw_one(heatmap: Tensor, x: int, y: int, radius: int, k: float) -> None:
    """Raise one [H, W] map on the CPU to one gaussian, in place."""
    h, w = heatmap.shape
    first_y, first_x = y - radius, x - radius
    top, bottom = max(0, first_y), min(h, y + radius + 1)
    left, right = max(0, first_x), min(w, x + radius + 1)
    if top >= bottom or left >= right:
        return
    if radius <= KEPT_RADIUS and not tracing():
        disc = _kept_disc(radius, heatmap.dtype)
    else:
        disc = gaussian_disc(radius, (2 * radius + 1) / 6, heatmap.dtype, "cpu")
    if bottom - top <= 2 * radius or right - left <= 2 * radius:
        disc = disc[top - first_y:bottom - first_y, left - first_x:right - first_x]
    cells = heatmap[top:bottom, left:right]
    torch.maximum(cells, disc if k == 1 else disc * k, out=cells)


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
    wide = torch.promote_types(dtype, torch.float32)
    x, y = dx.to(dtype), dy.to(dtype)
    square = x * x + y * y
    sigma = (2 * radius + 1).double() / 6
    exponent = _divide(-square.to(wide), (2 * sigma * sigma).to(wide)).to(dtype)
    value = exponent.exp()
    # The peak is 1, so MMDetection's cut at eps * peak is a cut at eps.
    value = value.masked_fill(value < torch.finfo(dtype).eps, 0)
    return value * k


def draw(heatmap: Tensor, discs: Tensor, image: Tensor, k: float = 1) -> Tensor:
    """As :func:`.reference.draw`, all discs at once.

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
    """As :func:`.reference.cells`, all discs at once."""
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
