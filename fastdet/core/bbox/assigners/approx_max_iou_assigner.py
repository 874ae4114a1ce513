"""Overlap with the best of several approximations (Guided Anchoring, arXiv 1901.03278)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..builder import BBOX_ASSIGNERS
from ..ground_truth import GroundTruth
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
        overlaps = self.overlaps(approxs, approxs_per_octave, gt_bboxes)
        if gt_bboxes_ignore is not None and gt_bboxes_ignore.numel():
            overlaps = overlaps.masked_fill(self._ignored(squares, gt_bboxes_ignore), -1)
        if valid is not None:
            overlaps = overlaps.masked_fill(~valid.to(overlaps.device), -1)
        result = self.assign_wrt_overlaps(overlaps, gt_labels)
        for name in ("gt_inds", "max_overlaps", "labels"):
            value = getattr(result, name)
            setattr(result, name, value if value is None else value.to(device))
        return result

    def overlaps(self, approxs: Tensor, approxs_per_octave: int, gt_bboxes: Tensor) -> Tensor:
        """The largest overlap ``[..., G, N]`` of gts [..., G, 4] with approximations [N K, 4]."""
        each = approxs.view(-1, approxs_per_octave, 4).expand(
            *gt_bboxes.shape[:-2], -1, -1, -1).unbind(-2)
        largest = self.iou_calculator(gt_bboxes, each[0])
        for one in each[1:]:  # one after the other: K times less memory
            largest = torch.maximum(largest, self.iou_calculator(gt_bboxes, one))
        return largest

    def _ignored(self, squares: Tensor, regions: Tensor) -> Tensor:
        """Which squares [..., N, 4] lie in one of the regions [..., I, 4], ``[..., N]``."""
        if self.ignore_iof_thr <= 0:
            return torch.zeros(squares.shape[:-1], dtype=torch.bool, device=squares.device)
        if self.ignore_wrt_candidates:
            covered = self.iou_calculator(squares, regions, mode="iof").amax(-1)
        else:
            covered = self.iou_calculator(regions, squares, mode="iof").amax(-2)
        return covered > self.ignore_iof_thr

    def assign_batch(self, approxs: Tensor, squares: Tensor,  # type: ignore[override]
                     approxs_per_octave: int, gts: GroundTruth, valid: Tensor) -> Tensor:
        """The gt of each square of a batch, ``[B, N]``, as :attr:`AssignResult.gt_inds` has it.

        Args:
            approxs: [N K, 4], the K approximations of each square in a row.
            squares: [N, 4].
            approxs_per_octave: K.
            gts: of the batch.
            valid: [B, N]; the other squares are neither.
        """
        overlaps = self.overlaps(approxs, approxs_per_octave, gts.boxes.to(approxs.dtype))
        there = torch.arange(overlaps.shape[1], device=overlaps.device) < gts.counts[:, None]
        out = ~valid
        if gts.ignore is not None:
            out = out | self._ignored(squares.expand(len(out), -1, -1),
                                      gts.ignore.to(squares.dtype))
        inds, _ = self.decided(overlaps.masked_fill(~there[..., None] | out[:, None], -1))
        # An image without gts is background, whatever is to be ignored.
        inds = torch.where(gts.counts[:, None] > 0, inds, 0)
        return torch.where(valid, inds, -1)
