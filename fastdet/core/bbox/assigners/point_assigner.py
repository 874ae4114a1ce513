"""Points of the level that fits a gt (RepPoints, arXiv 1904.11490)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..builder import BBOX_ASSIGNERS
from .assign_result import AssignResult
from .base_assigner import BaseAssigner
from .centers import box_centers, labels_of, nothing_assigned

__all__ = ["PointAssigner"]


@BBOX_ASSIGNERS.register_module()
class PointAssigner(BaseAssigner):
    """Each gt takes the nearest points of one level; a point goes to the gt that is nearest.

    Args:
        scale: a gt of this many strides belongs to a level.
        pos_num: how many points a gt takes.
    """

    def __init__(self, scale: float = 4, pos_num: int = 3) -> None:
        self.scale = scale
        self.pos_num = pos_num

    def assign(self, points: Tensor, gt_bboxes: Tensor,  # type: ignore[override]
               gt_bboxes_ignore: Tensor | None = None,
               gt_labels: Tensor | None = None) -> AssignResult:
        """Assign the gts of one image.

        Args:
            points: [N, 3]: x, y, stride.
            gt_bboxes: [G, 4].
            gt_bboxes_ignore: not used.
            gt_labels: [G].
        """
        num, num_gts = points.shape[0], gt_bboxes.shape[0]
        if num_gts == 0 or num == 0:
            return nothing_assigned(points, num_gts, num, gt_labels, overlaps=False)
        level = points[:, 2].log2().int()
        size = (gt_bboxes[:, 2:] - gt_bboxes[:, :2]).clamp(min=1e-6)
        wanted = (size / self.scale).log2().mean(1).int()
        wanted = torch.minimum(torch.maximum(wanted, level.min()), level.max())
        apart = ((points[:, None, :2] - box_centers(gt_bboxes)) / size).norm(dim=2)
        apart = torch.where(level[:, None] == wanted, apart, torch.inf)
        nearest, rows = apart.topk(self.pos_num, dim=0, largest=False)
        taken = torch.full_like(apart, torch.inf).scatter_(0, rows, nearest)
        least, gt = taken.min(dim=1)  # the first of equals, as one gt after the other would have it
        gt_inds = torch.where(least < torch.inf, gt + 1, 0)
        return AssignResult(num_gts, gt_inds, None, labels=labels_of(gt_inds, gt_labels))
