"""Simplified optimal transport (YOLOX, arXiv 2107.08430)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..builder import BBOX_ASSIGNERS
from ..ground_truth import GroundTruth
from ..iou_calculators import bbox_overlaps
from .assign_result import AssignResult
from .base_assigner import BaseAssigner
from .centers import box_centers, depth_in_boxes, labels_of, nothing_assigned

__all__ = ["SimOTAAssigner"]

INF = 100000.0


@BBOX_ASSIGNERS.register_module()
class SimOTAAssigner(BaseAssigner):
    """Each gt takes the priors of least cost, as many as their overlaps add up to.

    Args:
        center_radius: priors this many strides around a gt's centre count as near.
        candidate_topk: of how many overlaps the sum is taken.
        iou_weight: of the overlap in the cost.
        cls_weight: of the class in the cost.
    """

    def __init__(self, center_radius: float = 2.5, candidate_topk: int = 10,
                 iou_weight: float = 3.0, cls_weight: float = 1.0) -> None:
        self.center_radius = center_radius
        self.candidate_topk = candidate_topk
        self.iou_weight = iou_weight
        self.cls_weight = cls_weight

    def assign(self, pred_scores: Tensor, priors: Tensor,  # type: ignore[override]
               decoded_bboxes: Tensor, gt_bboxes: Tensor, gt_labels: Tensor,
               gt_bboxes_ignore: Tensor | None = None, eps: float = 1e-7) -> AssignResult:
        """Assign the gts of one image.

        Args:
            pred_scores: [N, C], probabilities.
            priors: [N, 4]: x, y, stride in x, stride in y.
            decoded_bboxes: [N, 4], predicted boxes.
            gt_bboxes: [G, 4].
            gt_labels: [G].
            gt_bboxes_ignore: not used.
            eps: keeps logarithms defined.
        """
        num_gt, num = gt_bboxes.size(0), decoded_bboxes.size(0)
        if num_gt == 0 or num == 0:
            return nothing_assigned(decoded_bboxes, num_gt, num, gt_labels)
        gts = GroundTruth(gt_bboxes[None], gt_labels[None].long(),
                          gt_labels.new_full((1,), num_gt, dtype=torch.int32))
        gt_inds, overlaps = (one[0] for one in self.assign_batch(
            pred_scores[None], priors, decoded_bboxes[None], gts, eps))
        return AssignResult(num_gt, gt_inds, overlaps, labels=labels_of(gt_inds, gt_labels))

    def assign_batch(self, pred_scores: Tensor, priors: Tensor,  # type: ignore[override]
                     decoded_bboxes: Tensor, gts: GroundTruth,
                     eps: float = 1e-7) -> tuple[Tensor, Tensor]:
        """Assign the gts of a batch.

        Args:
            pred_scores: [B, N, C], probabilities.
            priors: [N, 4]: x, y, stride in x, stride in y.
            decoded_bboxes: [B, N, 4], predicted boxes.
            gts: of the batch.
            eps: keeps logarithms defined.

        Returns:
            ``[B, N]`` gts, as :attr:`AssignResult.gt_inds` has them, and the overlaps in float32.
        """
        b, n = decoded_bboxes.shape[:2]
        g = gts.boxes.shape[1]
        if g == 0 or n == 0:
            return (gts.labels.new_zeros((b, n)),
                    decoded_bboxes.new_full((b, n), -INF, dtype=torch.float32))
        boxes = gts.boxes.to(decoded_bboxes.dtype)
        there = (torch.arange(g, device=boxes.device) < gts.counts[:, None])[:, None]
        in_gts, in_centers = self.inside(priors, boxes)
        valid = ((in_gts | in_centers) & there).any(-1, keepdim=True) & there
        ious = bbox_overlaps(decoded_bboxes, boxes)
        cost = (self.class_cost(pred_scores, gts.labels).to(pred_scores.dtype) * self.cls_weight
                - torch.log(ious + eps) * self.iou_weight + (~(in_gts & in_centers)) * INF)
        cost = cost.masked_fill(~valid, torch.inf)

        # Each gt takes as many as its largest overlaps add up to: no more than they are.
        k = min(self.candidate_topk, n)
        takes = torch.where(valid, ious, 0.0).topk(k, dim=1)[0].sum(1).int().clamp(min=1)
        least, rows = cost.topk(k, dim=1, largest=False)
        taken = torch.arange(k, device=cost.device)[:, None] < takes[:, None]
        matching = torch.zeros_like(cost, dtype=torch.bool).scatter_(
            1, rows, taken & (least < torch.inf))
        contested = matching.sum(-1, keepdim=True) > 1
        cheapest = torch.arange(g, device=cost.device) == cost.argmin(-1, keepdim=True)
        matching = torch.where(contested, cheapest, matching)
        found, gt = matching.any(-1), matching.int().argmax(-1)
        overlaps = ious.gather(-1, gt[..., None])[..., 0].float()
        return torch.where(found, gt + 1, 0), torch.where(found, overlaps, -INF)

    @staticmethod
    def class_cost(pred_scores: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy [B, N, G] of the roots of ``pred_scores`` [B, N, C] and each gt's class.

        In float32 also under autocast: half a precision does not order costs.
        """
        p = pred_scores.float().sqrt()
        miss = -torch.log1p(-p).clamp(min=-100)
        swap = -torch.log(p).clamp(min=-100) - miss
        return miss.sum(-1, keepdim=True) + swap.gather(
            -1, labels[:, None].expand(-1, p.shape[1], -1))

    def inside(self, priors: Tensor, gt_bboxes: Tensor) -> tuple[Tensor, Tensor]:
        """Whether priors lie in gts, and near their centres, [B, N, G] each.

        Args:
            priors: [N, 4]: x, y, stride in x, stride in y.
            gt_bboxes: [B, G, 4].
        """
        points, reach = priors[:, None, :2], self.center_radius * priors[:, None, 2:]
        off = points - box_centers(gt_bboxes)[:, None]
        return (depth_in_boxes(points, gt_bboxes[:, None]) > 0,
                torch.cat([reach + off, reach - off], dim=-1).amin(-1) > 0)
