"""Greedy non-maximum suppression on the CPU, by the cheaper of two ways.

By score: a block of the best boxes is settled within itself, and its kept boxes then meet those
behind it, which leave as soon as they are suppressed. That is the plain loop's number of pairs, in
vector units, and the right way where much is suppressed. The first blocks are small: where a few
boxes suppress most of the others, little is left to do.

By place: where little is suppressed, nearly all pairs would be looked at. The boxes are sorted by
their left edge instead; a strip of them meets only the boxes that begin before it ends, and
the few pairs found are then walked in the order of scores.

Both compute an overlap by the same operations, so the choice changes no result. In NumPy, whose
calls take a fraction of torch's: a thousand boxes are settled in a few dozen of them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]
#: Which of some rows [5, ..., R] and columns [5, ..., M] overlap by more than the threshold.
Pairs = Callable[[Array, Array], Array]

BLOCK = 64
#: Kept boxes after which the way is chosen.
PICKS = 32
#: Columns that meet a block in one go: the temporaries then stay in the second-level cache.
COLUMNS = 1024
#: Pairs of a block and all that is left up to which they are looked at in one go.
AT_ONCE = 8 * COLUMNS
#: What a step costs in units of one pair, about a nanosecond: a block's calls, a pair found.
CALLS, FOUND = 40_000, 150


def _ascending(key: Array) -> Array:
    """The stable order of unsigned integers, by words of 16 bits, which NumPy sorts by radix."""
    order = key.astype(np.uint16).argsort(kind="stable")
    for shift in range(16, int(key.max(initial=0)).bit_length(), 16):
        order = order[(key >> shift).astype(np.uint16)[order].argsort(kind="stable")]
    return order


def by_score(scores: Tensor) -> Array:
    """Positions of scores [N] as ``torch.sort`` orders them: descending, stable, NaN first."""
    if scores.element_size() < 4:
        scores = scores.float()
    elif not scores.is_floating_point():
        scores = scores.double()
    values = scores.detach().numpy() + 0.0  # makes one zero of two
    values[values != values] = np.nan
    bits = values.view(f"i{values.itemsize}")
    # Floats ascend as their bits do, from zero away to both sides.
    key = np.where(bits < 0, bits, bits ^ np.iinfo(bits.dtype).max)
    return _ascending(key.view(f"u{values.itemsize}"))


def by_group(groups: Array) -> Array:
    """The stable order of groups, int64 [N]."""
    return _ascending((groups - groups.min(initial=0)).view(np.uint64))


@cache
def _zeros(dtype: np.dtype[Any]) -> Array:
    """What clamps widths and heights: NumPy's maximum with a number is four times slower."""
    return np.zeros(2 * BLOCK * COLUMNS, dtype)


def _pairs(like: Array, threshold: float, offset: int) -> Pairs:
    """Makes ``hits(rows, columns)``, bool [..., R, M] of at most BLOCK x COLUMNS elements."""
    room = np.empty(3 * BLOCK * COLUMNS, like.dtype)
    zeros = _zeros(like.dtype)

    def hits(rows: Array, columns: Array) -> Array:
        shape = (*rows.shape[1:], columns.shape[-1])
        size = 1
        for n in shape:
            size *= n
        w, h, edge = room[:3 * size].reshape(3, *shape)
        x1, y1, x2, y2, area = rows[..., None]
        u1, v1, u2, v2, other = columns[..., None, :]
        np.minimum(x2, u2, out=w)
        w -= np.maximum(x1, u1, out=edge)
        np.minimum(y2, v2, out=h)
        h -= np.maximum(y1, v1, out=edge)
        if offset:
            w += offset
            h += offset
        np.maximum(room[:2 * size], zeros[:2 * size], out=room[:2 * size])
        w *= h
        np.add(area, other, out=edge)
        edge -= w
        w /= edge
        return w > threshold

    return hits


def _settle(hits: Array, alive: list[bool]) -> list[int]:
    """Rows of a block that are kept, from the hits [R, R] among them, in order."""
    words = np.packbits(hits, axis=1, bitorder="little")
    size = words.shape[1]
    bits = words.tobytes()
    kept, gone = [], 0
    for i, lives in enumerate(alive):
        if lives and not gone >> i & 1:
            kept.append(i)
            gone |= int.from_bytes(bits[i * size:i * size + size], "little")
    return kept


def _found_by_place(planes: Array, pairs: Pairs, reach: list[int]) -> Array:
    """Pairs [2, K] of positions that overlap, of boxes [5, M] sorted by their left edge.

    Strips are of BLOCK boxes; strip s meets those up to ``reach[s]``. As many strips as there is
    room for are looked at together, each against as many boxes as the one that reaches furthest.
    """
    found: list[Array] = []
    strip = 0
    # NaN overlaps nothing.
    padded = np.pad(planes, ((0, 0), (0, BLOCK + COLUMNS)), constant_values=np.nan)
    while strip < len(reach):
        at = strip * BLOCK
        width, count = reach[strip] - at, 1
        if width > COLUMNS:
            for start in range(at, reach[strip], COLUMNS):
                stop = min(start + COLUMNS, reach[strip])
                row, column = pairs(planes[:, at:at + BLOCK], planes[:, start:stop]).nonzero()
                found.append(np.stack([row + at, column + start]))
        else:
            while strip + count < len(reach):
                wider = max(width, reach[strip + count] - (at + count * BLOCK))
                if (count + 1) * wider > COLUMNS:
                    break
                width, count = wider, count + 1
            rows = padded[:, at:at + count * BLOCK].reshape(5, count, BLOCK)
            step = padded.strides[1]
            columns = np.lib.stride_tricks.as_strided(
                padded[:, at:], (5, count, width), (padded.strides[0], BLOCK * step, step))
            which, row, column = pairs(rows, columns).nonzero()
            found.append(np.stack([row, column]) + (at + which * BLOCK))
        strip += count
    return np.concatenate(found, 1)


def _by_place(planes: Array, pairs: Pairs, order: Array, reach: list[int]) -> Array:
    """Kept positions of boxes [5, M], best first, by strips of ``order``; see :func:`_plan`."""
    keep = [True] * len(order)
    ends = order[_found_by_place(planes[:, order], pairs, reach)]
    first, second = ends.min(0), ends.max(0)
    by_score = first.argsort()
    for i, j in zip(first[by_score].tolist(), second[by_score].tolist()):
        if keep[i] and i != j:
            keep[j] = False
    return np.array(keep).nonzero()[0]


def _plan(planes: Array, offset: int) -> tuple[Array, list[int], int]:
    """The order by left edge, where the boxes end that each strip can meet, and all the pairs."""
    order = planes[0].argsort()
    left, right = planes[0][order], planes[2][order]
    m, strips = len(order), range(0, len(order), BLOCK)
    edge = np.maximum.reduceat(right, strips)
    # Overlap needs x1 < x2 + offset; twice the offset leaves room for the sum's own rounding.
    reach = np.searchsorted(left, edge + 2 * offset, side="right").tolist()
    reach = [max(stop, min(at + BLOCK, m)) for at, stop in zip(strips, reach)]
    return order, reach, BLOCK * sum(stop - at for at, stop in zip(strips, reach))


def _one_group(planes: Array, pairs: Pairs, threshold: float, offset: int, limit: int) -> Array:
    """Kept positions of one group's boxes, planes [5, M], best first."""
    index = np.arange(planes.shape[1])
    dead = np.zeros(len(index), dtype=bool)
    kept: list[Array] = []
    count, hits, at, size = 0, 0, 0, 8
    planned = threshold < 0  # then boxes far away are pairs, too
    while at < len(index):
        if len(index) - at <= BLOCK:
            size = BLOCK
        end = min(at + size, len(index))
        rows, ahead = planes[:, at:end], planes[:, at:]
        at_once = ahead.shape[1] <= COLUMNS and (end - at) * ahead.shape[1] <= AT_ONCE
        block = pairs(rows, ahead if at_once else rows)
        mine = _settle(block[:, :end - at], (~dead[at:end]).tolist())
        kept.append(index[at:end][mine])
        count, at = count + len(mine), end
        if at == len(index) or 0 < limit <= count:
            break
        if not mine:
            continue
        rows = rows.take(mine, 1)
        for start in range(at, len(index), COLUMNS):
            columns = slice(start, start + COLUMNS)
            if at_once:
                meets = block.take(mine, 0)[:, end - len(dead):]
            else:
                meets = pairs(rows, planes[:, columns])
            dead[columns] |= meets.any(0)
            if not planned:
                hits += np.count_nonzero(meets)
        gone = np.count_nonzero(dead[at:])
        if 4 * gone > len(index) - at or (gone and not planned):
            left = (~dead[at:]).nonzero()[0] + at
            planes, index, at = planes.take(left, 1), index.take(left), 0
            dead = np.zeros(len(left), dtype=bool)
        size = BLOCK
        if not planned and count >= PICKS:
            planned = True
            rest = len(index) - at
            found = FOUND * rest * hits / count
            picks = rest / (1 + hits / count)
            if limit > 0:
                picks = min(picks, limit - count)
            by_score = picks * (rest / 2 + CALLS / BLOCK)
            if rest and found < by_score:
                order, reach, cost = _plan(planes[:, at:], offset)
                if cost + found + len(reach) * CALLS < by_score:
                    kept.append(index[at:][_by_place(planes[:, at:], pairs, order, reach)])
                    break
    return np.concatenate(kept) if kept else index


def nms_cpu(boxes: Tensor, order: Array, groups: Array | None, iou_threshold: float, offset: int,
            limit: int = 0) -> Array:
    """Where :func:`.reference.nms_reference` is true, of groups that stand together.

    Args:
        boxes: [M, 4].
        order: N positions of boxes that take part, a group after the other, its best one first.
        groups: of the boxes in that order, int64 [N], ascending; ``None`` for one group.
        iou_threshold: overlaps above it suppress.
        offset: 0 or 1.
        limit: if positive, a group may end when it has kept so many.

    Returns:
        Positions [K] in ``order`` of the kept boxes, ascending within a group, the groups in no
        order.
    """
    if boxes.dtype in (torch.float16, torch.bfloat16):
        boxes = boxes.float()
    array, n = boxes.detach().numpy().take(order, 0), len(order)
    planes = np.empty((5, n), array.dtype)
    planes[:4] = array.T
    x1, y1, x2, y2, area = planes
    with np.errstate(all="ignore"):
        np.multiply(x2 - x1 + offset, y2 - y1 + offset, out=area)
        pairs = _pairs(planes, iou_threshold, offset)
        if groups is None:
            return _one_group(planes, pairs, iou_threshold, offset, limit)
        ends = [*((groups[1:] != groups[:-1]).nonzero()[0] + 1).tolist(), n] if n else []
        kept: list[Array] = []
        start = at = 0  # boxes from start to at are small groups, to be settled in one block
        for end in [*ends, n + BLOCK + 1]:
            if at > start and end - start > BLOCK:
                block = slice(start, at)
                hits = pairs(planes[:, block], planes[:, block])
                hits &= groups[block, None] == groups[block]
                kept.append(start + np.array(_settle(hits, [True] * (at - start))))
                start = at
            if end - at > BLOCK and end <= n:
                kept.append(start + _one_group(planes[:, start:end], pairs, iou_threshold, offset,
                                               limit))
                start = end
            at = end
    return np.concatenate(kept) if kept else np.arange(0)
