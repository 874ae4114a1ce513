"""Task-aligned assignment (TOOD, arXiv 2108.07755)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..builder import BBOX_ASSIGNERS
from ..iou_calculators import build_iou_calculator
from .assign_result import AssignResult
from .base_assigner import BaseAssigner
from .centers import box_centers, depth_in_boxes, highest_overlap, labels_of, nothing_assigned

__all__ = ["TaskAlignedAssigner"]

INF = 1e8


@BBOX_ASSIGNERS.register_module()
class TaskAlignedAssigner(BaseAssigner):
    """Each gt takes the priors whose score and overlap together are highest.

    Args:
        topk: how many.
        iou_calculator: the config of the overlap.

    Raises:
        ValueError: ``topk`` is below 1.
    """

    def __init__(self, topk: int,
                 iou_calculator: dict[str, Any] = dict(type="BboxOverlaps2D")) -> None:
        if topk < 1:
            raise ValueError(f"TaskAlignedAssigner: topk must be at least 1, got {topk}")
        self.topk = topk
        self.iou_calculator = build_iou_calculator(iou_calculator)

    def assign(self, pred_scores: Tensor, decode_bboxes: Tensor,  # type: ignore[override]
               anchors: Tensor, gt_bboxes: Tensor, gt_bboxes_ignore: Tensor | None = None,
               gt_labels: Tensor | None = None, alpha: float = 1,
               beta: float = 6) -> AssignResult:
        """Assign the gts of one image.

        Args:
            pred_scores: [N, C], probabilities.
            decode_bboxes: [N, 4], predicted boxes.
            anchors: [N, 4], priors.
            gt_bboxes: [G, 4].
            gt_bboxes_ignore: not used.
            gt_labels: [G].
            alpha: exponent of the score.
            beta: exponent of the overlap.

        Returns:
            The result, with ``assign_metrics`` [N]: score^alpha overlap^beta of the assigned.
        """
        anchors = anchors[:, :4]
        num_gt, num = gt_bboxes.size(0), anchors.size(0)
        overlaps = self.iou_calculator(decode_bboxes, gt_bboxes).detach()
        if num_gt == 0 or num == 0:
            result = nothing_assigned(anchors, num_gt, num, gt_labels)
            result.assign_metrics = anchors.new_zeros((num,))
            return result
        alignment = pred_scores[:, gt_labels].detach() ** alpha * overlaps ** beta
        metrics, candidates = alignment.topk(min(self.topk, num), dim=0)
        inside = depth_in_boxes(box_centers(anchors)[candidates], gt_bboxes) > 0.01
        best, gt, taken = highest_overlap(overlaps, candidates, (metrics > 0) & inside, INF)
        gt_inds = torch.where(taken, gt + 1, 0)
        result = AssignResult(num_gt, gt_inds, best, labels=labels_of(gt_inds, gt_labels))
        result.assign_metrics = torch.where(taken, alignment.gather(1, gt[:, None])[:, 0], 0.0)
        return result
