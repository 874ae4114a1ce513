"""Overlap with the best of several approximations (Guided Anchoring, arXiv 1901.03278)."""

from __future__ import annotations

from torch import Tensor

from ..builder import BBOX_ASSIGNERS
from .assign_result import AssignResult
from .max_iou_assigner import MaxIoUAssigner

__all__ = ["ApproxMaxIoUAssigner"]


@BBOX_ASSIGNERS.register_module()
class ApproxMaxIoUAssigner(MaxIoUAssigner):
    """:class:`MaxIoUAssigner` where a square's overlap is the largest of its approximations'."""

    def assign(self, approxs: Tensor, squares: Tensor,  # type: ignore[override]
               approxs_per_octave: int, gt_bboxes: Tensor,
               gt_bboxes_ignore: Tensor | None = None,
               gt_labels: Tensor | None = None, valid: Tensor | None = None) -> AssignResult:
        """Assign the gts of one image.

        Args:
            approxs: [N K, 4], the K approximations of each square in a row.
            squares: [N, 4].
            approxs_per_octave: K.
            gt_bboxes: [G, 4].
            gt_bboxes_ignore: [g, 4].
            gt_labels: [G].
            valid: [N]; the other squares are neither, where there is a gt.
        """
        num, num_gts = squares.size(0), gt_bboxes.size(0)
        if num == 0 or num_gts == 0:
            return self.assign_wrt_overlaps(approxs.new_zeros((num_gts, num)), gt_labels)
        device = approxs.device
        if 0 < self.gpu_assign_thr < num_gts:
            approxs, squares, gt_bboxes = approxs.cpu(), squares.cpu(), gt_bboxes.cpu()
            gt_bboxes_ignore = None if gt_bboxes_ignore is None else gt_bboxes_ignore.cpu()
            gt_labels = None if gt_labels is None else gt_labels.cpu()
        overlaps = self.iou_calculator(approxs, gt_bboxes)
        overlaps = overlaps.view(num, approxs_per_octave, num_gts).amax(1).t().contiguous()
        if self.ignore_iof_thr > 0 and gt_bboxes_ignore is not None and gt_bboxes_ignore.numel():
            if self.ignore_wrt_candidates:
                inside = self.iou_calculator(squares, gt_bboxes_ignore, mode="iof").amax(1)
            else:
                inside = self.iou_calculator(gt_bboxes_ignore, squares, mode="iof").amax(0)
            overlaps = overlaps.masked_fill(inside > self.ignore_iof_thr, -1)
        if valid is not None:
            overlaps = overlaps.masked_fill(~valid.to(overlaps.device), -1)
        result = self.assign_wrt_overlaps(overlaps, gt_labels)
        for name in ("gt_inds", "max_overlaps", "labels"):
            value = getattr(result, name)
            setattr(result, name, value if value is None else value.to(device))
        return result
