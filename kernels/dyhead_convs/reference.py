"""The convolutions of a DyHead block in plain torch: the definition and the oracle of the tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..deform_conv2d import deform_conv2d

__all__ = ["Convolution", "convolutions", "dyhead_convs_reference", "moments_of_tiles"]


class Convolution(NamedTuple):
    """One deformable convolution of a block."""

    branch: int  # 0 mid, 1 low (of the finer level, stride 2), 2 high (of the coarser level)
    source: int  # the level that it reads
    level: int  # the level whose offsets and masks it takes, and to which its result belongs
    grid: int  # the level whose height and width its result has


def convolutions(levels: int) -> Iterator[Convolution]:
    """The convolutions of a block in the order in which their results follow one another."""
    for level in range(levels):
        yield Convolution(0, level, level, level)
    for level in range(1, levels):
        yield Convolution(1, level - 1, level, level)
    for level in range(levels - 1):
        yield Convolution(2, level + 1, level, level + 1)


def dyhead_convs_reference(x: Sequence[Tensor], numbers: Sequence[Tensor],
                           weights: Sequence[Tensor]) -> Tensor:
    """Arguments and ``maps`` as :func:`fastdet.kernels.dyhead_convs.dyhead_convs`, unchecked.

    High is given the offsets and masks of a finer map than its result, and reads the beginning of
    their numbers, not their places: checkpoints were trained so.
    """
    x = [t.contiguous(memory_format=torch.channels_last) for t in x]  # as rows come out
    places = [n.tensor_split((18,), 1) for n in numbers]
    masks = [mask.sigmoid() for _, mask in places]
    rows = []
    for branch, source, level, _ in convolutions(len(x)):
        stride = 2 if branch == 1 else 1
        out = deform_conv2d(x[source], places[level][0], weights[branch], mask=masks[level],
                            stride=(stride, stride), padding=(1, 1))
        rows.append(out.permute(0, 2, 3, 1).flatten(0, 2))
    return torch.cat(rows)


def _counts(size: int, finer: int) -> Tensor:
    """What each of ``size`` pixels along an axis counts for after a resize to ``finer`` ones."""
    eye = torch.eye(size, dtype=torch.float64)[None]
    return F.interpolate(eye, finer, mode="linear", align_corners=True)[0].sum(1)


def moments_of_tiles(maps: Tensor, images: int, sizes: Sequence[tuple[int, int]], tile: int
                     ) -> Tensor:
    """``stats`` of :class:`fastdet.kernels.dyhead_convs.Convolved`, as defined.

    Args:
        maps: ``[rows, O]``.
        images: of the batch.
        sizes: height and width of each level.
        tile: pixels of a tile; each result of each image begins a new one.

    Returns:
        Of each image and tile the mean, the sum of squared deviations and, for high alone, that of
        deviations times what their pixels count for after the resize, ``[B, tiles, 3, O]``; then
        the sum of what the pixels of a tile count for, ``[B, tiles]``. In float32, flat.
    """
    stats: list[list[Tensor]] = [[] for _ in range(images)]
    parts: list[list[Tensor]] = [[] for _ in range(images)]
    start = 0
    for branch, _, level, grid in convolutions(len(sizes)):
        (h, w), (H, W) = sizes[grid], sizes[level]
        weight = torch.zeros(h * w, dtype=torch.float64)
        if branch == 2:
            weight = (_counts(h, H)[:, None] * _counts(w, W)).flatten()
        for image in range(images):
            whole = maps[start:start + h * w].detach().double()
            start += h * w
            for x, counts in zip(whole.split(tile), weight.to(maps.device).split(tile)):
                off = x - x.mean(0)
                stats[image].append(torch.cat([
                    x.mean(0), off.square().sum(0), (off * counts[:, None]).sum(0)]))
                parts[image].append(counts.sum()[None])
    flat = [t for of_image in (*stats, *parts) for t in of_image]
    return torch.cat([maps.new_empty(0, dtype=torch.float64), *flat]).float()
