"""Max-IoU assignment in plain torch: the definition, with its matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..bbox_overlaps import bbox_overlaps


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
        overlaps[:, ignored(boxes, ignore, rule)] = -1
    assigned, largest = assign_wrt_overlaps(overlaps, rule)
    if valid is not None:
        overlaps[:, ~valid] = -1
        assigned, largest = assign_wrt_overlaps(overlaps, rule)
        assigned[~valid], largest[~valid] = -1, -1
    return assigned, largest


def ignored(boxes: Tensor, ignore: Tensor | None, rule: Rule) -> Tensor:
    """``[N]``: which candidates lie in a region to ignore."""
    if rule.ignore_iof_thr <= 0 or ignore is None or not len(ignore) or not len(boxes):
        return torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
    if rule.ignore_wrt_candidates:
        covered = bbox_overlaps(boxes, ignore, mode="iof").amax(1)
    else:
        covered = bbox_overlaps(ignore, boxes, mode="iof").amax(0)
    return covered > rule.ignore_iof_thr
