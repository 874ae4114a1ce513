"""As many positives of every gt (YOLOF, arXiv 2103.09460)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..builder import BBOX_ASSIGNERS
from ..iou_calculators import build_iou_calculator
from ..transforms import bbox_xyxy_to_cxcywh
from .assign_result import AssignResult
from .base_assigner import BaseAssigner
from .centers import labels_of, nothing_assigned

__all__ = ["UniformAssigner"]


@BBOX_ASSIGNERS.register_module()
class UniformAssigner(BaseAssigner):
    """Each gt takes its nearest predictions and its nearest anchors.

    Args:
        pos_ignore_thr: a taken anchor of a smaller overlap is ignored.
        neg_ignore_thr: another prediction of a larger overlap is ignored.
        match_times: how many predictions, and how many anchors.
        iou_calculator: the config of the overlap.
    """

    def __init__(self, pos_ignore_thr: float, neg_ignore_thr: float, match_times: int = 4,
                 iou_calculator: dict[str, Any] = dict(type="BboxOverlaps2D")) -> None:
        self.match_times = match_times
        self.pos_ignore_thr = pos_ignore_thr
        self.neg_ignore_thr = neg_ignore_thr
        self.iou_calculator = build_iou_calculator(iou_calculator)

    def assign(self, bbox_pred: Tensor, anchor: Tensor, gt_bboxes: Tensor,  # type: ignore
               gt_bboxes_ignore: Tensor | None = None,
               gt_labels: Tensor | None = None) -> AssignResult:
        """Assign the gts of one image.

        Args:
            bbox_pred: [N, 4], predicted boxes.
            anchor: [N, 4].
            gt_bboxes: [G, 4].
            gt_bboxes_ignore: not used.
            gt_labels: [G].

        Returns:
            The result, with the properties ``pos_idx`` [P] (which of the taken count),
            ``pos_predicted_boxes`` and ``target_boxes`` [P, 4], P = 2 match_times G.
        """
        num_gts, num = gt_bboxes.size(0), bbox_pred.size(0)
        if num_gts == 0 or num == 0:
            result = nothing_assigned(bbox_pred, num_gts, num, gt_labels, overlaps=False)
            result.labels = torch.full_like(result.gt_inds, -1)
            result.set_extra_property("pos_idx", bbox_pred.new_empty(0, dtype=torch.bool))
            result.set_extra_property("pos_predicted_boxes", bbox_pred.new_empty((0, 4)))
            result.set_extra_property("target_boxes", bbox_pred.new_empty((0, 4)))
            return result
        gts = bbox_xyxy_to_cxcywh(gt_bboxes)
        rows = torch.cat([
            torch.cdist(bbox_xyxy_to_cxcywh(boxes), gts, p=1).topk(
                self.match_times, dim=0, largest=False)[1] for boxes in (bbox_pred, anchor)],
            dim=1).reshape(-1)
        gt_of = torch.arange(num_gts, device=rows.device).repeat(self.match_times * 2)
        anchor_overlaps = self.iou_calculator(anchor, gt_bboxes)
        near = self.iou_calculator(bbox_pred, gt_bboxes).amax(1) > self.neg_ignore_thr
        counts = anchor_overlaps[rows, gt_of] >= self.pos_ignore_thr
        gt_inds = torch.where(near, -1, 0)
        # A row that is taken twice keeps the later gt: the place of the last of equal rows.
        place = torch.arange(len(rows), device=rows.device)
        last = torch.full_like(gt_inds, -1).scatter_reduce_(0, rows, place, "amax")
        taken = torch.where(counts, gt_of + 1, -1)[last.clamp(min=0)]
        gt_inds = torch.where(last >= 0, taken, gt_inds)
        labels = labels_of(gt_inds, gt_labels)
        result = AssignResult(num_gts, gt_inds, anchor_overlaps.amax(0), labels=labels)
        result.set_extra_property("pos_idx", counts)
        result.set_extra_property("pos_predicted_boxes", bbox_pred[rows])
        result.set_extra_property("target_boxes", gt_bboxes[gt_of])
        return result
