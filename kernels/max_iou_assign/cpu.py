"""Max-IoU assignment without Triton: chunks of candidates, in O(N) memory.

The matrix is made a chunk at a time, in the same buffers, and only its largest values are kept. The
candidates that a gt takes because they are its best are looked for once more, but in those chunks
alone where its best overlap was seen, and in that gt's row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .reference import Rule, ignored

#: Overlaps that are computed at a time, in three buffers that stay in the last-level cache.
CHUNK = 2**17
#: Candidates of a chunk at least, however many gts there are.
LEAST = 256


def _planes(boxes: Tensor) -> Tensor:
    """``[5, N]``: x1, y1, x2, y2 and the area."""
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack([x1, y1, x2, y2, (x2 - x1) * (y2 - y1)])


def _overlaps(gts: Tensor, boxes: Tensor, room: Tensor, floor: Tensor) -> Tensor:
    """``bbox_overlaps`` of planes ``[5, G]`` and ``[5, N]``, by the same operations."""
    g, n = gts.shape[1], boxes.shape[1]
    w, h, edge = (one[:g * n].view(g, n) for one in room)
    gts = gts[..., None]
    for out, low, high in ((w, 0, 2), (h, 1, 3)):
        torch.minimum(gts[high], boxes[high], out=out)
        torch.maximum(gts[low], boxes[low], out=edge)
        out.sub_(edge).clamp_(min=0)
    w.mul_(h)
    torch.add(gts[4], boxes[4], out=edge)
    torch.maximum(edge.sub_(w), floor, out=edge)
    return w.div_(edge)


def max_iou_assign_chunked(boxes: Tensor, gts: Tensor, rule: Rule, ignore: Tensor | None = None,
                           valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """:func:`.reference.max_iou_assign_reference` in O(N) memory, to the bit."""
    n, g = len(boxes), len(gts)
    assigned = boxes.new_full((n,), -1, dtype=torch.long)
    largest = boxes.new_zeros(n)
    if g == 0:
        assigned.zero_()
    if g and n:
        _assign(boxes, gts, rule, ignore, valid, assigned, largest)
    if valid is not None:
        assigned = torch.where(valid, assigned, -1)
        largest = torch.where(valid, largest, -1)
    return assigned, largest


def _assign(boxes: Tensor, gts: Tensor, rule: Rule, ignore: Tensor | None, valid: Tensor | None,
            assigned: Tensor, largest: Tensor) -> None:
    """Write ``assigned``, all -1 before, and ``largest``."""
    n, g = len(boxes), len(gts)
    each = max(LEAST, CHUNK // max(g, 0 if ignore is None else len(ignore)))
    spans = [slice(i, min(i + each, n)) for i in range(0, n, each)]
    room = boxes.new_empty(3, g * min(each, n))
    floor = boxes.new_full((1,), 1e-6)
    columns, rows = _planes(boxes), _planes(gts)
    out: list[Tensor] = []
    if valid is not None or (ignore is not None and len(ignore) and rule.ignore_iof_thr > 0):
        for span in spans:
            mask = ignored(boxes[span], ignore, rule)
            out.append(mask if valid is None else mask | ~valid[span])

    def overlaps_of(i: int, of: Tensor) -> Tensor:
        overlaps = _overlaps(of, columns[:, spans[i]], room, floor)
        return overlaps.masked_fill_(out[i], -1) if out else overlaps

    best = boxes.new_empty(len(spans), g)
    for i, span in enumerate(spans):
        overlaps = overlaps_of(i, rows)
        mine = torch.amax(overlaps, 0, out=largest[span])
        torch.amax(overlaps, 1, out=best[i])
        assigned[span].masked_fill_((mine >= rule.neg_low) & (mine < rule.neg_high), 0)
        positive = (mine >= rule.pos_iou_thr).nonzero().view(-1)
        if len(positive):
            assigned[span][positive] = overlaps.index_select(1, positive).argmax(0) + 1
    if rule.match_low_quality:
        gt_largest = best.amax(0)
        seen = (best == gt_largest) & (gt_largest >= rule.min_pos_iou)
        if not rule.gt_max_assign_all:  # the first of its best candidates
            seen &= seen.cumsum(0) == 1
        taken = torch.zeros_like(assigned)
        for i in seen.any(1).nonzero().view(-1).tolist():
            of = seen[i].nonzero().view(-1)
            match = overlaps_of(i, rows[:, of]) == gt_largest[of, None]
            mine = taken[spans[i]]
            if rule.gt_max_assign_all:
                torch.amax(match * (of[:, None] + 1), 0, out=mine)
            else:
                mine.scatter_reduce_(0, match.int().argmax(1), of + 1, "amax")
        torch.where(taken > 0, taken, assigned, out=assigned)
