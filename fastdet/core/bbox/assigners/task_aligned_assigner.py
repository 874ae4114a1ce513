"""Task-aligned assignment (TOOD, arXiv 2108.07755)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..builder import BBOX_ASSIGNERS
from ..ground_truth import GroundTruth
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
        if num_gt == 0 or num == 0 or gt_labels is None:
            result = nothing_assigned(anchors, num_gt, num, gt_labels)
            result.assign_metrics = anchors.new_zeros((num,))
            return result
        gts = GroundTruth(gt_bboxes[None], gt_labels.long()[None],
                          gt_labels.new_full((1,), num_gt, dtype=torch.int32))
        gt_inds, best, metrics = (one[0] for one in self.assign_batch(
            pred_scores[None], decode_bboxes[None], anchors, gts, alpha=alpha, beta=beta))
        result = AssignResult(num_gt, gt_inds, best, labels=labels_of(gt_inds, gt_labels))
        result.assign_metrics = metrics
        return result

    @torch.no_grad()
    def assign_batch(self, pred_scores: Tensor, decode_bboxes: Tensor,  # type: ignore[override]
                     anchors: Tensor, gts: GroundTruth, valid: Tensor | None = None,
                     alpha: float = 1, beta: float = 6) -> tuple[Tensor, Tensor, Tensor]:
        """Assign the gts of a batch.

        Args:
            pred_scores: [B, N, C], probabilities.
            decode_bboxes: [B, N, 4], predicted boxes.
            anchors: [N, 4], priors.
            gts: of the batch.
            valid: [B, N]; the others are neither.
            alpha: exponent of the score.
            beta: exponent of the overlap.

        Returns:
            ``[B, N]`` each: gts, as :attr:`AssignResult.gt_inds` has them, overlaps, and
            score^alpha overlap^beta of the assigned.
        """
        b, g = gts.labels.shape
        n = decode_bboxes.shape[1]
        nobody = gts.labels.new_zeros((b, n))
        if valid is not None:
            nobody = nobody.masked_fill(~valid, -1)
        if g == 0 or n == 0:
            return nobody, anchors.new_zeros((b, n)), anchors.new_zeros((b, n))
        boxes = gts.boxes.to(decode_bboxes.dtype)
        overlaps = self.iou_calculator(decode_bboxes, boxes)
        score = pred_scores.gather(2, gts.labels[:, None].expand(-1, n, -1))
        alignment = score ** alpha * overlaps ** beta
        there = (torch.arange(g, device=boxes.device) < gts.counts[:, None])[:, None]
        may = there if valid is None else there & valid[..., None]
        metrics, candidates = torch.where(may, alignment, -1.0).topk(min(self.topk, n), dim=1)
        inside = depth_in_boxes(box_centers(anchors)[candidates], boxes[:, None]) > 0.01
        best, gt, taken = highest_overlap(overlaps, candidates, (metrics > 0) & inside, INF)
        assigned = torch.where(taken, alignment.gather(2, gt[..., None])[..., 0], 0.0)
        return torch.where(taken, gt + 1, nobody), best, assigned
