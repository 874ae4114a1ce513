"""Anchors of the cell that holds a gt's centre (YOLOv3, arXiv 1804.02767)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..builder import BBOX_ASSIGNERS
from ..ground_truth import GroundTruth
from ..iou_calculators import build_iou_calculator
from .assign_result import AssignResult
from .base_assigner import BaseAssigner
from .centers import labels_of, nothing_assigned

__all__ = ["GridAssigner"]


@BBOX_ASSIGNERS.register_module()
class GridAssigner(BaseAssigner):
    """By the overlap, among the anchors whose cell is responsible for a gt.

    Args:
        pos_iou_thr: an anchor above this learns its best gt.
        neg_iou_thr: below this, or between these two, an anchor is background.
        min_pos_iou: a gt's best anchor learns it, too, where their overlap is above this.
        gt_max_assign_all: all of a gt's best anchors, not the first alone.
        iou_calculator: the config of the overlap.
    """

    def __init__(self, pos_iou_thr: float, neg_iou_thr: float | Sequence[float],
                 min_pos_iou: float = 0.0, gt_max_assign_all: bool = True,
                 iou_calculator: dict[str, Any] = dict(type="BboxOverlaps2D")) -> None:
        self.pos_iou_thr = pos_iou_thr
        self.neg_iou_thr = neg_iou_thr
        self.min_pos_iou = min_pos_iou
        self.gt_max_assign_all = gt_max_assign_all
        self.iou_calculator = build_iou_calculator(iou_calculator)

    def assign(self, bboxes: Tensor, box_responsible_flags: Tensor,  # type: ignore[override]
               gt_bboxes: Tensor, gt_labels: Tensor | None = None) -> AssignResult:
        """Assign the gts of one image.

        Args:
            bboxes: [N, 4], anchors.
            box_responsible_flags: [N], whether the anchor's cell holds a gt's centre.
            gt_bboxes: [G, 4].
            gt_labels: [G].
        """
        num_gts, num = gt_bboxes.size(0), bboxes.size(0)
        if num_gts == 0 or num == 0:
            return nothing_assigned(bboxes, num_gts, num, gt_labels)
        gts = GroundTruth(gt_bboxes[None], gt_bboxes.new_zeros((1, num_gts), dtype=torch.long),
                          gt_bboxes.new_full((1,), num_gts, dtype=torch.int32))
        gt_inds, most = self.assign_batch(bboxes, box_responsible_flags[None], gts)
        return AssignResult(num_gts, gt_inds[0], most[0], labels=labels_of(gt_inds[0], gt_labels))

    def assign_batch(self, bboxes: Tensor, box_responsible_flags: Tensor,  # type: ignore[override]
                     gts: GroundTruth) -> tuple[Tensor, Tensor]:
        """Assign the gts of a batch.

        Args:
            bboxes: [N, 4], anchors.
            box_responsible_flags: [B, N], whether the anchor's cell holds a gt's centre.
            gts: of the batch.

        Returns:
            ``[B, N]`` gts, as :attr:`AssignResult.gt_inds` has them, and the overlaps.
        """
        b, g = gts.labels.shape
        if g == 0:
            return (gts.labels.new_zeros((b, len(bboxes))), bboxes.new_zeros((b, len(bboxes))))
        nth = torch.arange(g, device=bboxes.device)
        there = (nth < gts.counts[:, None])[..., None]
        responsible = box_responsible_flags.bool()
        overlaps = self.iou_calculator(gts.boxes, bboxes.expand(b, -1, -1))
        most = overlaps.masked_fill(~there, -1.0).amax(1)
        low, high = (self.neg_iou_thr if isinstance(self.neg_iou_thr, (tuple, list)) else
                     (None, self.neg_iou_thr))
        background = (most >= 0 if low is None else most > low) & (most <= high)
        gt_inds = torch.where(background | (gts.counts[:, None] == 0), 0, -1)
        overlaps = overlaps.masked_fill(~(responsible[:, None] & there), -1.0)
        most, best = overlaps.max(1)
        gt_inds = torch.where((most > self.pos_iou_thr) & responsible, best + 1, gt_inds)
        gt_most, gt_best = overlaps.max(2, keepdim=True)
        if self.gt_max_assign_all:
            claimed = overlaps == gt_most
        else:
            claimed = torch.zeros_like(overlaps, dtype=torch.bool).scatter_(2, gt_best, True)
        claimed = claimed & responsible[:, None] & there & (gt_most > self.min_pos_iou)
        last = torch.where(claimed, nth[:, None] + 1, 0).amax(1)  # of several gts the last stays
        return torch.where(last > 0, last, gt_inds), most
