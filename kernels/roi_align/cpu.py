"""RoIAlign on a CPU: the weighted sum of the pixels that each bin touches, by ``embedding_bag``.

The mean of bilinear samples is a product of weights along y and along x. Summing the samples'
weights on each pixel first leaves (grid + 1)^2 rows of C channels to read for a bin, where its
samples read 4 grid^2. Backward is the same sum, sorted by pixel: each row of the map's gradient is
written once, in one order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .reference import LOWEST, Axis, Geometry, axis_corners, axis_samples

__all__ = ["roi_align_cpu", "roi_align_cpu_backward"]


def _taps(axis: Axis, bins: int, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels along one axis that each of ``N * bins`` bins touches.

    Returns:
        How many, and the first of them in the lists that follow; the pixels; their weights.
    """
    where, exists, _ = axis_samples(axis, bins, length)
    low, high, share = (t.flatten(0, 1) for t in axis_corners(where, exists, length))
    share = share / axis.grid.clamp(min=1).repeat_interleave(bins)[:, None]
    rest = 1 / axis.grid.clamp(min=1).repeat_interleave(bins)[:, None] - share
    weight = share.new_zeros(low.shape[0], length + 1)
    weight.scatter_add_(1, low, rest).scatter_add_(1, high, share)
    touched = torch.zeros_like(weight, dtype=torch.bool)
    touched.scatter_(1, low, True).scatter_(1, high, True)
    weight, touched = weight[:, :length], touched[:, :length]
    count = touched.sum(1)
    return count, count.cumsum(0) - count, touched.nonzero()[:, 1], weight[touched]


def _bags(geometry: Geometry, mine: Tensor, output_size: tuple[int, int], h: int, w: int
          ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows of a map that each bin of the regions ``mine`` sums.

    Returns:
        Rows and their weights, the bin that each is for, and the first row of each bin.
    """
    y, x = (Axis(*(t[mine] for t in axis)) for axis in (geometry.y, geometry.x))
    (ny, at_y, pixel_y, weight_y), (nx, at_x, pixel_x, weight_x) = (
        _taps(axis, bins, length) for axis, bins, length in ((y, output_size[0], h),
                                                             (x, output_size[1], w)))
    n = len(mine)

    def over_bins(along_y: Tensor, along_x: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(t.expand(n, *output_size).flatten() for t in (  # type: ignore[return-value]
            along_y.view(n, output_size[0], 1), along_x.view(n, 1, output_size[1])))

    count_y, count_x = over_bins(ny, nx)
    first_y, first_x = over_bins(at_y, at_x)
    size = count_y * count_x
    start = size.cumsum(0) - size
    bag = torch.repeat_interleave(size)
    nth = torch.arange(len(bag)) - start[bag]
    down = nth // count_x[bag]
    at_y = first_y[bag] + down
    at_x = first_x[bag] + nth - down * count_x[bag]
    image = geometry.batch[mine].long().repeat_interleave(output_size[0] * output_size[1])
    rows = (image[bag] * h + pixel_y[at_y]) * w + pixel_x[at_x]
    return rows, weight_y[at_y] * weight_x[at_x], bag, start


def _table(feat: Tensor, dtype: torch.dtype) -> Tensor:
    """A map as rows of channels."""
    return feat.permute(0, 2, 3, 1).contiguous().to(dtype).flatten(0, 2)


def _bag_sum(rows: Tensor, table: Tensor, start: Tensor, weight: Tensor) -> Tensor:
    return F.embedding_bag(rows, table.detach(), start, mode="sum", per_sample_weights=weight)


def roi_align_cpu(feats: Sequence[Tensor], geometry: Geometry, output_size: tuple[int, int],
                  maximum: bool) -> tuple[Tensor, Tensor]:
    """RoIAlign of regions whose geometry is known.

    Returns:
        ``[N, C, PH, PW]``; and ``[2, N, C, PH, PW]``, the (y, x) where each maximum was found, -2
        where none was; empty for means.
    """
    n, c, dtype = len(geometry.level), feats[0].shape[1], geometry.level.dtype
    out = torch.full((n, output_size[0] * output_size[1], c), LOWEST if maximum else 0.0,
                     dtype=dtype)
    found = torch.full((2, *out.shape) if maximum else (0,), -2.0, dtype=dtype)
    for level, feat in enumerate(feats):
        mine = (geometry.level == level).nonzero()[:, 0]
        if len(mine) == 0:
            continue
        table = _table(feat, dtype)
        if maximum:
            best, place = _maximum(table, geometry, mine, output_size, *feat.shape[2:])
            out[mine] = best.flatten(1, 2)
            found[:, mine] = place.flatten(2, 3)
        else:
            rows, weight, _, start = _bags(geometry, mine, output_size, *feat.shape[2:])
            part = _bag_sum(rows, table, start, weight).view(len(mine), *out.shape[1:])
            if len(mine) == n:
                out = part
            else:
                out[mine] = part
    out = out.to(feats[0].dtype).transpose(1, 2).contiguous()
    if maximum:
        found = found.transpose(2, 3).contiguous().view(2, n, c, *output_size)
    return out.view(n, c, *output_size), found


def _maximum(table: Tensor, geometry: Geometry, mine: Tensor, output_size: tuple[int, int],
             h: int, w: int) -> tuple[Tensor, Tensor]:
    """Largest sample of every bin ``[n, PH, PW, C]`` and its place ``[2, n, PH, PW, C]``."""
    y, x = (Axis(*(t[mine] for t in axis)) for axis in (geometry.y, geometry.x))
    ys, y_is, y_all = axis_samples(y, output_size[0], h)
    xs, x_is, x_all = axis_samples(x, output_size[1], w)
    corners_y, corners_x = axis_corners(ys, y_is, h), axis_corners(xs, x_is, w)
    table = torch.cat([table, table.new_zeros(1, table.shape[1])])
    image = geometry.batch[mine].long()[:, None, None]
    none = (y.grid == 0) | (x.grid == 0)
    whole = (y_all[:, :, None] & x_all[:, None, :]) | none[:, None, None]
    best = torch.where(whole, LOWEST, 0.0).to(table.dtype)[..., None]
    best = best.repeat(1, 1, 1, table.shape[1])
    place = best.new_full((2, *best.shape), -2.0)
    for i in range(ys.shape[2]):
        for j in range(xs.shape[2]):
            value = torch.zeros_like(best)
            for a in range(2):
                for b in range(2):
                    py, px = corners_y[a][:, :, None, i], corners_x[b][:, None, :, j]
                    at = torch.where((py < h) & (px < w), (image * h + py) * w + px, -1)
                    fy, fx = corners_y[2][:, :, None, i], corners_x[2][:, None, :, j]
                    share = (fy if a else 1 - fy) * (fx if b else 1 - fx)
                    value += table[at] * share[..., None]
            exists = y_is[:, :, None, i] & x_is[:, None, :, j]
            better = exists[..., None] & (value > best)
            best = torch.where(better, value, best)
            place[0] = torch.where(better, ys[:, :, None, i, None], place[0])
            place[1] = torch.where(better, xs[:, None, :, j, None], place[1])
    return best, place


def roi_align_cpu_backward(grad: Tensor, geometry: Geometry, found: Tensor,
                           sizes: Sequence[tuple[int, int, int]], channels_last: Sequence[bool]
                           ) -> list[Tensor]:
    """Gradients of the maps.

    Args:
        grad: ``[N, C, PH, PW]``.
        geometry: of the forward.
        found: of the forward.
        sizes: images, height and width of every map.
        channels_last: which maps lay channels last; so do their gradients.
    """
    c, output_size = grad.shape[1], (grad.shape[2], grad.shape[3])
    dtype = geometry.level.dtype
    grads = []
    for level, ((b, h, w), last) in enumerate(zip(sizes, channels_last)):
        mine = (geometry.level == level).nonzero()[:, 0]
        g = grad if len(mine) == len(grad) else grad[mine]
        g = g.flatten(2).transpose(1, 2).contiguous().to(dtype)
        if found.numel():
            dtable = _scatter(g, geometry.batch[mine], found[:, mine], b, h, w)
        else:
            rows, weight, bag, _ = _bags(geometry, mine, output_size, h, w)
            rows, order = rows.int().sort(stable=True) if b * h * w < 2**31 else rows.sort(
                stable=True)
            start = torch.searchsorted(rows, torch.arange(b * h * w, dtype=rows.dtype))
            dtable = _bag_sum(bag[order], g.flatten(0, 1), start, weight[order])
        dx = dtable.view(b, h, w, c).permute(0, 3, 1, 2).to(grad.dtype)
        grads.append(dx if last else dx.contiguous())
    return grads


def _scatter(g: Tensor, batch: Tensor, found: Tensor, b: int, h: int, w: int) -> Tensor:
    """The gradient of maxima ``[n, PH PW, C]``: to the four pixels around where each was found."""
    n, _, c = g.shape
    y, x = found.flatten(3).transpose(2, 3)
    exists = torch.ones((), dtype=torch.bool)
    ys, xs = axis_corners(y, exists, h), axis_corners(x, exists, w)
    dtable = g.new_zeros((b * h * w + 1) * c)  # one row more, for no pixel
    channel = torch.arange(c)
    image = batch.long().view(n, 1, 1)
    for i, fy in ((0, 1 - ys[2]), (1, ys[2])):
        for j, fx in ((0, 1 - xs[2]), (1, xs[2])):
            counts = (ys[i] < h) & (xs[j] < w)
            row = torch.where(counts, (image * h + ys[i]) * w + xs[j], b * h * w)
            dtable.index_add_(0, (row * c + channel).flatten(), (g * fy * fx).flatten())
    return dtable[:-c]
