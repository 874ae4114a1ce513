"""Simplified optimal transport (YOLOX, arXiv 2107.08430)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..builder import BBOX_ASSIGNERS
from ..iou_calculators import bbox_overlaps
from .assign_result import AssignResult
from .base_assigner import BaseAssigner
from .centers import box_centers, depth_in_boxes, nothing_assigned

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
        valid, near = self.get_in_gt_and_in_center_info(priors, gt_bboxes)
        scores, boxes = pred_scores[valid], decoded_bboxes[valid]
        if num_gt == 0 or num == 0 or boxes.size(0) == 0:
            return nothing_assigned(decoded_bboxes, num_gt, num, gt_labels)
        ious = bbox_overlaps(boxes, gt_bboxes)
        target = F.one_hot(gt_labels.long(), pred_scores.shape[-1]).float()
        # In float32 also under autocast: this form is no op that autocast may run in half.
        p = scores.float().sqrt()[:, None].expand(-1, num_gt, -1)
        cls_cost = F.binary_cross_entropy(
            p, target[None].expand(len(scores), -1, -1), reduction="none").sum(-1).to(scores.dtype)
        cost = (cls_cost * self.cls_weight + -torch.log(ious + eps) * self.iou_weight
                + (~near) * INF)
        matched_ious, matched_gts = self.dynamic_k_matching(cost, ious, num_gt, valid)
        gt_inds = decoded_bboxes.new_zeros((num,), dtype=torch.long)
        gt_inds[valid] = matched_gts + 1
        labels = torch.full_like(gt_inds, -1)
        labels[valid] = gt_labels[matched_gts].long()
        overlaps = gt_inds.new_full((num,), -INF, dtype=torch.float32)
        overlaps[valid] = matched_ious.to(overlaps.dtype)
        return AssignResult(num_gt, gt_inds, overlaps, labels=labels)

    def get_in_gt_and_in_center_info(self, priors: Tensor,
                                     gt_bboxes: Tensor) -> tuple[Tensor, Tensor]:
        """Which priors lie in a gt or near its centre, and of these which do both.

        Args:
            priors: [N, 4]: x, y, stride in x, stride in y.
            gt_bboxes: [G, 4].

        Returns:
            ``[N]``, and ``[n, G]`` for the n priors that are true in it.
        """
        points, reach = priors[:, None, :2], self.center_radius * priors[:, None, 2:]
        in_gts = depth_in_boxes(points, gt_bboxes) > 0
        off = points - box_centers(gt_bboxes)
        in_centers = (torch.cat([reach + off, reach - off], dim=-1).amin(-1) > 0)
        valid = in_gts.any(1) | in_centers.any(1)
        return valid, in_gts[valid] & in_centers[valid]

    def dynamic_k_matching(self, cost: Tensor, pairwise_ious: Tensor, num_gt: int,
                           valid_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Match by ``cost`` [n, G]; ``valid_mask`` [N] keeps, in place, the matched of its n.

        Returns:
            Overlap and gt of each matched prior.
        """
        k = min(self.candidate_topk, pairwise_ious.size(0))
        takes = pairwise_ious.topk(k, dim=0)[0].sum(0).int().clamp(min=1)
        # No gt takes more than k, whose overlaps are at most one each.
        rows = cost.topk(k, dim=0, largest=False)[1]
        taken = torch.arange(k, device=cost.device)[:, None] < takes
        matching = torch.zeros_like(cost, dtype=torch.bool).scatter_(0, rows, taken)
        contested = matching.sum(1) > 1
        cheapest = F.one_hot(cost.argmin(1), num_gt).bool()
        matching = torch.where(contested[:, None], cheapest, matching)
        found = matching.any(1)
        valid_mask[valid_mask.clone()] = found
        matching = matching[found]
        return (matching * pairwise_ious[found]).sum(1), matching.int().argmax(1)
