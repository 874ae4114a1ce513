"""Points of the level that fits a gt (RepPoints, arXiv 1904.11490)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..builder import BBOX_ASSIGNERS
from ..ground_truth import GroundTruth
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
        gts = GroundTruth.pad([gt_bboxes])
        gt_inds = self.assign_batch(points, gts)[0][0]
        return AssignResult(num_gts, gt_inds, None, labels=labels_of(gt_inds, gt_labels))

    def assign_batch(self, points: Tensor, gts: GroundTruth,  # type: ignore[override]
                     valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Assign the gts of a batch.

        Args:
            points: [N, 3]: x, y, stride.
            gts: of the batch.
            valid: [B, N]; the others are neither.

        Returns:
            ``[B, N]`` gts, as :attr:`AssignResult.gt_inds` has them, and zeros for overlaps.
        """
        b, g = gts.labels.shape
        here = points.new_ones((b, len(points)), dtype=torch.bool) if valid is None else valid
        none = here.long() - 1
        overlaps = points.new_zeros(none.shape)
        if g == 0:
            return none, overlaps
        level = points[:, 2].log2().int()
        size = (gts.boxes[..., 2:] - gts.boxes[..., :2]).clamp(min=1e-6)
        wanted = (size / self.scale).log2().mean(-1).int()
        wanted = torch.minimum(torch.maximum(wanted, level.min()), level.max())
        centres = box_centers(gts.boxes)
        apart = ((points[:, None, :2] - centres[:, None]) / size[:, None]).norm(dim=-1)
        there = torch.arange(g, device=points.device) < gts.counts[:, None]
        fits = (level[:, None] == wanted[:, None]) & here[..., None] & there[:, None]
        apart = torch.where(fits, apart, torch.inf)  # [B, N, G]
        nearest, rows = apart.topk(self.pos_num, dim=1, largest=False)
        taken = torch.full_like(apart, torch.inf).scatter_(1, rows, nearest)
        # The first of equals, as one gt after the other would have it.
        least, gt = taken.min(dim=-1)
        return torch.where(least < torch.inf, gt + 1, none), overlaps
