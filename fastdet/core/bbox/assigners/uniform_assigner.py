"""As many positives of every gt (YOLOF, arXiv 2103.09460)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..builder import BBOX_ASSIGNERS
from ..ground_truth import GroundTruth
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
        gts = GroundTruth(gt_bboxes[None], gt_bboxes.new_zeros((1, num_gts), dtype=torch.long),
                          gt_bboxes.new_full((1,), num_gts, dtype=torch.int32))
        gt_inds, rows, gt_of, counts = (one[0] for one in self.assign_batch(
            bbox_pred[None], anchor, gts))
        most = self.iou_calculator(anchor, gt_bboxes).amax(0)
        result = AssignResult(num_gts, gt_inds, most, labels=labels_of(gt_inds, gt_labels))
        result.set_extra_property("pos_idx", counts)
        result.set_extra_property("pos_predicted_boxes", bbox_pred[rows])
        result.set_extra_property("target_boxes", gt_bboxes[gt_of])
        return result

    def assign_batch(self, bbox_pred: Tensor, anchor: Tensor, gts: GroundTruth,  # type: ignore
                     valid: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Assign the gts of a batch.

        Args:
            bbox_pred: [B, N, 4], predicted boxes.
            anchor: [N, 4].
            gts: of the batch.
            valid: [B, N]; the others are neither.

        Returns:
            ``[B, N]`` gts, as :attr:`AssignResult.gt_inds` has them; and of what all gts took,
            P = 2 match_times G, the rows, the gts from 0 on, and whether they count, ``[B, P]``.
        """
        b, g = gts.labels.shape
        nobody = gts.labels.new_zeros((b, len(anchor)))
        if valid is not None:
            nobody = nobody.masked_fill(~valid, -1)
        if g == 0:
            none = nobody[:, :0]
            return nobody, none, none, none.bool()
        boxes = gts.boxes.to(bbox_pred.dtype)
        around = bbox_xyxy_to_cxcywh(boxes)
        anchors = anchor.expand(b, -1, -1)
        nearest = []
        for one in (bbox_pred, anchors):
            apart = torch.cdist(bbox_xyxy_to_cxcywh(one), around, p=1)
            if valid is not None:
                apart = apart.masked_fill(~valid[..., None], torch.inf)
            nearest.append(apart.topk(self.match_times, dim=1, largest=False)[1])
        rows = torch.cat(nearest, dim=2).flatten(1)
        gt_of = torch.arange(g, device=rows.device).repeat(self.match_times * 2).expand_as(rows)
        there = gt_of < gts.counts[:, None]
        overlap = self.iou_calculator(anchors, boxes).flatten(1).gather(1, rows * g + gt_of)
        counts = there & (overlap >= self.pos_ignore_thr)
        near = self.iou_calculator(bbox_pred, boxes).amax(2) > self.neg_ignore_thr
        gt_inds = torch.where(near, -1, nobody)
        # A row that is taken twice keeps the later gt: the place of the last of equal rows.
        place = torch.where(there, torch.arange(rows.shape[1], device=rows.device), -1)
        last = torch.full_like(gt_inds, -1).scatter_reduce_(1, rows, place, "amax")
        taken = torch.where(counts, gt_of + 1, -1).gather(1, last.clamp(min=0))
        return torch.where(last >= 0, taken, gt_inds), rows, gt_of, counts
