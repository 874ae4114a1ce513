"""Max-IoU assignment in plain torch: the definition with its matrix, and the same in chunks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..bbox_overlaps import bbox_overlaps

#: Overlaps that are computed at a time.
CHUNK = 2**19


class Rule(NamedTuple):
    """What decides, as :class:`fastdet.core.bbox.MaxIoUAssigner` names it."""

    pos_iou_thr: float
    neg_low: float
    neg_high: float
    min_pos_iou: float
    match_low_quality: bool
    gt_max_assign_all: bool
    ignore_iof_thr: float
    ignore_wrt_candidates: bool


def assign_wrt_overlaps(overlaps: Tensor, rule: Rule) -> tuple[Tensor, Tensor]:
    """Assign by a matrix of overlaps.

    Args:
        overlaps: ``[G, N]``, -1 for a candidate that is out of question.
        rule: what decides.

    Returns:
        ``[N]`` int64: -1 for neither, 0 for background, i + 1 for gt i; and ``[N]``, the largest
        overlap of each candidate.
    """
    g, n = overlaps.shape
    assigned = overlaps.new_full((n,), -1, dtype=torch.long)
    if g == 0 or n == 0:
        return (assigned if g else torch.zeros_like(assigned)), overlaps.new_zeros(n)
    largest, which = overlaps.max(0)
    gt_largest, gt_which = overlaps.max(1)
    assigned[(largest >= rule.neg_low) & (largest < rule.neg_high)] = 0
    positive = largest >= rule.pos_iou_thr
    assigned[positive] = which[positive] + 1
    if rule.match_low_quality:
        for i in range(g):
            if gt_largest[i] >= rule.min_pos_iou:
                if rule.gt_max_assign_all:
                    assigned[overlaps[i] == gt_largest[i]] = i + 1
                else:
                    assigned[gt_which[i]] = i + 1
    return assigned, largest


def max_iou_assign_reference(boxes: Tensor, gts: Tensor, rule: Rule, ignore: Tensor | None = None,
                             valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Assign the candidates of one image (Faster R-CNN, arXiv 1506.01497), by the matrix.

    Args:
        boxes: ``[N, 4]`` candidates.
        gts: ``[G, 4]``.
        rule: what decides.
        ignore: ``[I, 4]`` regions; a candidate of which more than ``ignore_iof_thr`` lies in one
            is neither positive nor negative.
        valid: ``[N]`` bool; a candidate that is not valid is neither, too.

    Returns:
        As :func:`assign_wrt_overlaps`.
    """
    overlaps = bbox_overlaps(gts, boxes)
    if len(gts):
        overlaps[:, _ignored(boxes, ignore, rule)] = -1
    assigned, largest = assign_wrt_overlaps(overlaps, rule)
    if valid is not None:
        overlaps[:, ~valid] = -1
        assigned, largest = assign_wrt_overlaps(overlaps, rule)
        assigned[~valid], largest[~valid] = -1, -1
    return assigned, largest


def _ignored(boxes: Tensor, ignore: Tensor | None, rule: Rule) -> Tensor:
    """``[N]``: which candidates lie in a region to ignore."""
    if rule.ignore_iof_thr <= 0 or ignore is None or not len(ignore) or not len(boxes):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if rule.ignore_wrt_candidates:
        covered = bbox_overlaps(boxes, ignore, mode="iof").amax(1)
    else:
        covered = bbox_overlaps(ignore, boxes, mode="iof").amax(0)
    return covered > rule.ignore_iof_thr


def max_iou_assign_chunked(boxes: Tensor, gts: Tensor, rule: Rule, ignore: Tensor | None = None,
                           valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """:func:`max_iou_assign_reference` in O(N) memory: chunks of candidates, twice over."""
    n, g = len(boxes), len(gts)
    assigned = boxes.new_full((n,), -1, dtype=torch.long)
    largest = boxes.new_zeros(n)
    if g == 0:
        assigned.zero_()
    each = max(1, CHUNK // max(g, 0 if ignore is None else len(ignore), 1))
    spans = [slice(i, i + each) for i in range(0, n, each)] if g else []
    out = torch.zeros(n, dtype=torch.bool, device=boxes.device)
    gt_largest = boxes.new_full((g,), -1)
    gt_which = torch.zeros(g, dtype=torch.long, device=boxes.device)

    def overlaps_of(span: slice) -> Tensor:
        return bbox_overlaps(gts, boxes[span]).masked_fill_(out[span], -1)

    for span in spans:
        out[span] = _ignored(boxes[span], ignore, rule)
        if valid is not None:
            out[span] |= ~valid[span]
        overlaps = overlaps_of(span)
        largest[span], which = overlaps.max(0)
        here, where = overlaps.max(1)
        better = (here > gt_largest) | (here.isnan() & ~gt_largest.isnan())
        gt_largest = torch.where(better, here, gt_largest)
        gt_which = torch.where(better, where + span.start, gt_which)
        mine = largest[span]
        negative = (mine >= rule.neg_low) & (mine < rule.neg_high)
        assigned[span] = torch.where(mine >= rule.pos_iou_thr, which + 1,
                                     torch.where(negative, 0, -1))
    if rule.match_low_quality and g and n:
        wanted = gt_largest >= rule.min_pos_iou
        number = torch.arange(1, g + 1, device=boxes.device)
        if rule.gt_max_assign_all:
            gt_largest = torch.where(wanted, gt_largest, torch.nan)  # equal to nothing
            for span in spans:
                match = (overlaps_of(span) == gt_largest[:, None]) * number[:, None]
                match = match.amax(0)
                assigned[span] = torch.where(match > 0, match, assigned[span])
        else:
            match = torch.zeros_like(assigned).scatter_reduce_(
                0, gt_which, torch.where(wanted, number, 0), "amax")
            assigned = torch.where(match > 0, match, assigned)
    if valid is not None:
        assigned = torch.where(valid, assigned, -1)
        largest = torch.where(valid, largest, -1)
    return assigned, largest
