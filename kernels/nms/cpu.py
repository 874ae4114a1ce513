"""Greedy non-maximum suppression on the CPU, by the cheaper of two ways.

By score: a block of the best boxes is settled within itself, and its kept boxes then meet those
behind it, which leave as soon as they are suppressed. That is the plain loop's number of pairs, in
torch's vector units, and the right way where much is suppressed.

By place: where little is suppressed, nearly all pairs would be looked at. The boxes are sorted by
their left edge instead; a strip of them meets only the boxes that begin before it ends, and
the few pairs found are then walked in the order of scores.

Both compute an overlap by the same operations, so the choice changes no result.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

BLOCK = 64
#: Columns that meet a block in one go: the temporaries then stay in the second-level cache.
COLUMNS = 1024
#: What a step costs in units of one pair, about a nanosecond: a block's calls, a pair found.
CALLS, FOUND = 60_000, 150

_BITS = torch.tensor([1 << i for i in range(63)] + [-1 << 63])  # the last one is the sign


class _Pairs:
    """Which of a block's rows and columns overlap by more than the threshold."""

    def __init__(self, like: Tensor, threshold: float, offset: int) -> None:
        self.threshold, self.offset = threshold, offset
        self.room = [like.new_empty(BLOCK * COLUMNS) for _ in range(3)]

    def __call__(self, rows: Tensor, columns: Tensor) -> Tensor:
        """One where they do, else zero, until the next call.

        Args:
            rows: planes [5, ..., R]: x1, y1, x2, y2 and the area.
            columns: [5, ..., M].

        Returns:
            [..., R, M], of at most BLOCK x COLUMNS elements.
        """
        shape = (*rows.shape[1:], columns.shape[-1])
        w, h, edge = (room[:math.prod(shape)].view(shape) for room in self.room)
        x1, y1, x2, y2, area = rows.unsqueeze(-1)
        u1, v1, u2, v2, other = columns.unsqueeze(-2)
        torch.minimum(x2, u2, out=w).sub_(torch.maximum(x1, u1, out=edge))
        torch.minimum(y2, v2, out=h).sub_(torch.maximum(y1, v1, out=edge))
        if self.offset:
            w.add_(self.offset)
            h.add_(self.offset)
        inter = w.clamp_(min=0).mul_(h.clamp_(min=0))
        union = torch.add(area, other, out=edge).sub_(inter)
        return inter.div_(union).gt_(self.threshold)


def _settle(hits: Tensor, alive: Tensor) -> list[int]:
    """Rows of a block that are kept, from the hits [R, R] among them, in order."""
    rows = (hits.long() * _BITS[:len(alive)]).sum(1).tolist()
    kept, gone = [], 0
    for i, (row, lives) in enumerate(zip(rows, alive.tolist())):
        if lives and not gone >> i & 1:
            kept.append(i)
            gone |= row & -(2 << i)  # the boxes behind i alone
    return kept


def _found_by_place(planes: Tensor, pairs: _Pairs, reach: list[int]) -> list[Tensor]:
    """Pairs [K, 2] of positions that overlap, of boxes [5, M] sorted by their left edge.

    Strips are of BLOCK boxes; strip s meets those up to ``reach[s]``. As many strips as there is
    room for are looked at together, each against as many boxes as the one that reaches furthest.
    """
    found: list[Tensor] = []
    strip = 0
    nan = planes.new_full((5, BLOCK + COLUMNS), torch.nan)  # overlaps nothing
    padded = torch.cat([planes, nan], 1)
    while strip < len(reach):
        at = strip * BLOCK
        width, count = reach[strip] - at, 1
        if width > COLUMNS:
            for start in range(at, reach[strip], COLUMNS):
                stop = min(start + COLUMNS, reach[strip])
                hits = pairs(planes[:, at:at + BLOCK], planes[:, start:stop]).nonzero()
                found.append(hits + torch.tensor([at, start]))
        else:
            while strip + count < len(reach):
                wider = max(width, reach[strip + count] - (at + count * BLOCK))
                if (count + 1) * wider > COLUMNS:
                    break
                width, count = wider, count + 1
            rows = padded[:, at:at + count * BLOCK].view(5, count, BLOCK)
            columns = padded[:, at:].unfold(1, width, BLOCK)[:, :count]
            hits = pairs(rows, columns).nonzero()
            found.append(hits[:, 1:] + (at + hits[:, :1] * BLOCK))
        strip += count
    return found


def _by_place(planes: Tensor, pairs: _Pairs, order: Tensor, reach: list[int]) -> Tensor:
    """Kept positions of boxes [5, M], best first, by strips of ``order``; see :func:`_plan`."""
    keep = [True] * len(order)
    ends = order[torch.cat(_found_by_place(planes[:, order], pairs, reach))]
    first, second = ends.amin(1), ends.amax(1)
    by_score = first.argsort()
    for i, j in zip(first[by_score].tolist(), second[by_score].tolist()):
        if keep[i] and i != j:
            keep[j] = False
    return torch.tensor(keep).nonzero().view(-1)


def _plan(planes: Tensor, offset: int) -> tuple[Tensor, list[int], int]:
    """The order by left edge, where the boxes end that each strip can meet, and all the pairs."""
    left, order = planes[0].sort()
    m, strips = len(order), range(0, len(order), BLOCK)
    right = planes[2][order]
    pad = -m % BLOCK
    edge = torch.cat([right, right[-1:].expand(pad)]).view(-1, BLOCK).amax(1)
    # Overlap needs x1 < x2 + offset; twice the offset leaves room for the sum's own rounding.
    reach = torch.searchsorted(left, edge + 2 * offset, right=True).tolist()
    reach = [max(stop, min(at + BLOCK, m)) for at, stop in zip(strips, reach)]
    return order, reach, BLOCK * sum(stop - at for at, stop in zip(strips, reach))


def _one_group(planes: Tensor, pairs: _Pairs, limit: int) -> Tensor:
    """Kept positions of one group's boxes, planes [5, M], best first."""
    index = torch.arange(planes.shape[1])
    dead = torch.zeros(len(index), dtype=torch.bool)
    kept: list[Tensor] = []
    count, at, planned = 0, 0, pairs.threshold < 0  # then boxes far away are pairs, too
    while at < len(index):
        end = min(at + BLOCK, len(index))
        rows = planes[:, at:end]
        mine = torch.tensor(_settle(pairs(rows, rows), ~dead[at:end]), dtype=torch.int64)
        kept.append(index[at:end][mine])
        count, at, rows = count + len(mine), end, rows[:, mine]
        if 0 < limit <= count:
            break
        if not len(mine):
            continue
        hits = 0.0
        for start in range(at, len(index), COLUMNS):
            columns = slice(start, min(start + COLUMNS, len(index)))
            per_column = pairs(rows, planes[:, columns]).sum(0)
            hits += float(per_column.sum())
            dead[columns] |= per_column > 0
        gone = int(dead[at:].sum())
        if gone and (4 * gone > len(index) - at or not planned):
            alive = (~dead[at:]).nonzero().view(-1) + at
            planes, index, at = planes[:, alive], index[alive], 0
            dead = torch.zeros(len(alive), dtype=torch.bool)
        if not planned:
            planned = True
            left = len(index) - at
            found = left * hits / len(mine)
            rest = left / (1 + hits / len(mine))
            if limit > 0:
                rest = min(rest, limit - count)
            by_score = rest * (left / 2 + CALLS / BLOCK)
            if left and FOUND * found < by_score:
                order, reach, cost = _plan(planes[:, at:], pairs.offset)
                if cost + FOUND * found + len(reach) * CALLS < by_score:
                    kept.append(index[at:][_by_place(planes[:, at:], pairs, order, reach)])
                    break
    return torch.cat(kept) if kept else index


def nms_cpu(boxes: Tensor, groups: Tensor, iou_threshold: float, offset: int,
            limit: int = 0) -> Tensor:
    """What :func:`.reference.nms_reference` returns, of groups that stand together.

    Args:
        boxes: [N, 4], within a group the best one first.
        groups: int64 [N], ascending.
        iou_threshold: overlaps above it suppress.
        offset: 0 or 1.
        limit: if positive, a group may end when it has kept so many.

    Returns:
        bool [N].
    """
    if boxes.dtype in (torch.float16, torch.bfloat16):
        boxes = boxes.float()
    n = len(boxes)
    keep = torch.zeros(n, dtype=torch.bool)
    planes = boxes.new_empty(5, n)
    planes[:4] = boxes.t()
    torch.mul(planes[2] - planes[0] + offset, planes[3] - planes[1] + offset, out=planes[4])
    pairs = _Pairs(planes, iou_threshold, offset)
    sizes = torch.unique_consecutive(groups, return_counts=True)[1].tolist()
    start = at = 0  # boxes from start to at are small groups, to be settled in one block
    for size in [*sizes, BLOCK + 1]:
        if at > start and at + size - start > BLOCK:
            block = slice(start, at)
            hits = pairs(planes[:, block], planes[:, block])
            hits *= groups[block, None] == groups[block]
            kept = _settle(hits, torch.ones(at - start, dtype=torch.bool))
            keep[start + torch.tensor(kept, dtype=torch.int64)] = True
            start = at
        at += size
        if size > BLOCK and at <= n:
            keep[start + _one_group(planes[:, start:at], pairs, limit)] = True
            start = at
    return keep
