"""RoIAlign in plain torch: the definition, and the oracle of the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

#: What an empty bin holds after max pooling, as mmcv has it: every value is compared with it.
LOWEST = -10000.0

#: A region with a coordinate beyond this many pixels takes no samples.
FARTHEST = 2.0**29


class Axis(NamedTuple):
    """Where samples lie along one axis, for every region.

    Attributes:
        start: ``[N]``, the region's first edge in pixels of its map.
        step: ``[N]``, size of a bin.
        grid: ``[N]``, samples of a bin, a whole number of the same type.
    """

    start: Tensor
    step: Tensor
    grid: Tensor


class Geometry(NamedTuple):
    """Which map a region reads, and where; level -1 takes no samples at all."""

    level: Tensor
    batch: Tensor
    y: Axis
    x: Axis

    def pack(self) -> Tensor:
        """``[N, 8]``: level, batch, and start, step and grid of y and of x."""
        return torch.stack([self.level, self.batch, *self.y, *self.x], 1)

    @staticmethod
    def unpack(packed: Tensor) -> Geometry:
        """What :meth:`pack` packed."""
        level, batch, *rest = packed.unbind(1)
        return Geometry(level, batch, Axis(*rest[:3]), Axis(*rest[3:]))


def roi_levels(rois: Tensor, num_levels: int, finest_scale: float) -> Tensor:
    """``floor(log2(sqrt(area) / finest_scale + 1e-6))``, clamped; -1 where the area has no root.

    Args:
        rois: ``[N, 5]``: image, x1, y1, x2, y2.
        num_levels: levels of the pyramid.
        finest_scale: regions of up to twice this size read level 0.

    Returns:
        ``[N]`` of the type of ``rois``.
    """
    scale = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).sqrt()
    level = torch.log2(scale / finest_scale + 1e-6).floor().clamp(0, num_levels - 1)
    return torch.where(level.isnan(), -1, level)


def roi_geometry(rois: Tensor, level: Tensor, batch_size: int, scales: Sequence[float],
                 output_size: tuple[int, int], sampling_ratio: int, aligned: bool) -> Geometry:
    """Bins and samples of every region on its level, in the type of ``rois``."""
    batch = rois[:, 0]
    scale = torch.zeros_like(batch)
    for i, s in enumerate(scales):
        scale = torch.where(level == i, s, scale)
    offset = 0.5 if aligned else 0.0
    axes = []
    counts = (level >= 0) & (level < len(scales)) & (batch >= 0) & (batch < batch_size)
    for low, high, bins in ((2, 4, output_size[0]), (1, 3, output_size[1])):
        start = rois[:, low] * scale - offset
        end = rois[:, high] * scale - offset
        size = end - start
        if not aligned:
            size = torch.where(size < 1, 1, size)
        counts &= (start.abs() < FARTHEST) & (end.abs() < FARTHEST)
        step = size / bins
        grid = (torch.full_like(step, sampling_ratio) if sampling_ratio > 0
                else step.ceil().clamp(min=0))
        axes.append((start, step, grid))
    return Geometry(
        torch.where(counts, level, -1), torch.where(counts, batch, 0),
        *(Axis(*(torch.where(counts, t, 0) for t in axis)) for axis in axes))


def axis_samples(axis: Axis, bins: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Coordinates of the samples that can lie on the map.

    Returns:
        Coordinates ``[N, bins, K]``, which of them are samples at all, and ``[N, bins]``: whether
        all samples of the bin are among them.
    """
    start, step, grid = (t[:, None] for t in axis)
    origin = start + torch.arange(bins, device=start.device) * step
    # Samples lie one after the other; those that a whole pixel of slack puts outside are left out.
    each = step / grid.clamp(min=1)
    each = torch.where(each == 0, 1, each)
    first, last = ((edge - origin) / each for edge in (-2.0, length + 1.0))
    first, last = torch.minimum(first, last), torch.maximum(first, last)
    first = first.floor().clamp(min=0).minimum(grid)
    last = last.ceil().clamp(min=0).minimum(grid)
    point = step == 0  # all samples of a bin lie on each other
    first, last = torch.where(point, 0, first), torch.where(point, grid, last)
    k = int((last - first).max()) if first.numel() else 0
    index = first[..., None] + torch.arange(k, device=start.device)
    where = origin[..., None] + (index + 0.5) * step[..., None] / grid[..., None].clamp(min=1)
    return where, index < last[..., None], (last - first) == grid


def axis_corners(where: Tensor, exists: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """The two pixels on either side of every sample and the share of the second.

    Returns:
        Low and high pixel, int64, and the share; where a sample lies more than a pixel outside, or
        does not exist, low and high are ``length``: no pixel.
    """
    inside = exists & (where >= -1) & (where <= length)
    at = torch.where(inside, where, 0).clamp(min=0)
    low = at.long().clamp(max=length - 1)
    high = (low + 1).clamp(max=length - 1)
    share = torch.where(high > low, at - low, 0)
    return torch.where(inside, low, length), torch.where(inside, high, length), share


def _bilinear(table: Tensor, row: Tensor, ys: tuple[Tensor, ...], xs: tuple[Tensor, ...],
              h: int, w: int) -> Tensor:
    """Sample one place of every bin: ``table`` [B H W, C], corners [N, PH] and [N, PW]."""
    out = table.new_zeros(*ys[0].shape, xs[0].shape[1], table.shape[1])
    for i, fy in ((0, 1 - ys[2]), (1, ys[2])):
        for j, fx in ((0, 1 - xs[2]), (1, xs[2])):
            y, x = ys[i][:, :, None], xs[j][:, None, :]
            counts = (y < h) & (x < w)
            at = torch.where(counts, (row[:, None, None] * h + y) * w + x, 0)
            share = (fy[:, :, None] * fx[:, None, :]).to(table.dtype)
            value = table[at] * share[..., None]
            out = out + torch.where(counts[..., None], value, 0)
    return out


def roi_align_reference(feats: Sequence[Tensor], rois: Tensor, output_size: tuple[int, int],
                        spatial_scales: Sequence[float], sampling_ratio: int = 0,
                        pool_mode: str = "avg", aligned: bool = True, finest_scale: float = 56,
                        levels: Tensor | None = None) -> Tensor:
    """Mean or maximum of bilinear samples in each bin of each region (arXiv 1703.06870).

    Args:
        feats: maps ``[B, C, H_l, W_l]``, the finest first.
        rois: ``[N, 5]``: image, x1, y1, x2, y2. Coordinates are in float32 at least.
        output_size: bins along y and x.
        spatial_scales: pixels of each map in a pixel of the image.
        sampling_ratio: samples along each axis of a bin; 0 takes one for each begun pixel.
        pool_mode: ``'avg'`` or ``'max'``.
        aligned: shift by half a pixel, and allow regions smaller than a pixel.
        finest_scale: of :func:`roi_levels`.
        levels: ``[N]``, the level of each region instead.

    Returns:
        ``[N, C, *output_size]`` of the type of ``feats``. A sample more than a pixel outside the
        map is zero. A region without samples gives zeros, or under ``'max'`` -10000.
    """
    rois = rois.detach().to(torch.promote_types(rois.dtype, torch.float32))
    if levels is None:
        levels = roi_levels(rois, len(feats), finest_scale)
    geometry = roi_geometry(rois, levels.to(rois.dtype), feats[0].shape[0], spatial_scales,
                            output_size, sampling_ratio, aligned)
    lowest = 0.0 if pool_mode == "avg" else LOWEST
    out = feats[0].new_full((rois.shape[0], *output_size, feats[0].shape[1]), lowest)
    for level, feat in enumerate(feats):
        mine = (geometry.level == level).nonzero()[:, 0]
        h, w = feat.shape[2:]
        table = feat.permute(0, 2, 3, 1).flatten(0, 2)
        row = geometry.batch[mine].long()
        y, x = (Axis(*(t[mine] for t in axis)) for axis in (geometry.y, geometry.x))
        at_y, y_is, y_all = axis_samples(y, output_size[0], h)
        at_x, x_is, x_all = axis_samples(x, output_size[1], w)
        ys, xs = axis_corners(at_y, y_is, h), axis_corners(at_x, x_is, w)
        shape = (len(mine), *output_size, feat.shape[1])
        # Every map takes part in the graph, whether a region reads it or not.
        best = feat.new_full(shape, lowest) + table[:0].sum()
        if pool_mode == "max":  # a sample that was left out is a zero, too
            whole = (y_all[:, :, None] & x_all[:, None, :]) | \
                ((y.grid == 0) | (x.grid == 0))[:, None, None]
            best = torch.where(whole[..., None], best, 0)
        for i in range(y_is.shape[2]):
            for j in range(x_is.shape[2]):
                value = _bilinear(table, row, tuple(t[..., i] for t in ys),
                                  tuple(t[..., j] for t in xs), h, w)
                if pool_mode == "avg":
                    best = best + value
                else:
                    exists = (y_is[:, :, i, None] & x_is[:, None, :, j])[..., None]
                    best = torch.where(exists & (value > best), value, best)
        if pool_mode == "avg":
            count = (y.grid * x.grid).clamp(min=1)[:, None, None, None]
            best = (best / count).to(feat.dtype)
        out = out.index_put((mine,), best)
    return out.permute(0, 3, 1, 2).contiguous()
