"""Assignment by the largest IoU (Faster R-CNN, arXiv 1506.01497)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdet.kernels.max_iou_assign import max_iou_assign

from ..builder import BBOX_ASSIGNERS
from ..ground_truth import GroundTruth
from ..iou_calculators import BboxOverlaps2D, build_iou_calculator
from .assign_result import AssignResult
from .base_assigner import BaseAssigner

__all__ = ["MaxIoUAssigner"]


@BBOX_ASSIGNERS.register_module()
class MaxIoUAssigner(BaseAssigner):
    """Background below one IoU, positive from another on, and the best candidates of every gt.

    With MMDetection's own IoU no matrix of overlaps is made, so that ``gpu_assign_thr`` is not
    needed then: memory does not grow with the gts.

    Args:
        pos_iou_thr: the smallest IoU of a positive.
        neg_iou_thr: the IoU that background stays below, or a range ``(low, high)``.
        min_pos_iou: the smallest best IoU for which a gt takes its best candidates.
        gt_max_assign_all: a gt takes all candidates of the same, best IoU, instead of the first.
        ignore_iof_thr: a candidate of which more than this share lies in a region to ignore is
            neither; not positive: regions have no effect.
        ignore_wrt_candidates: share of the candidate, else of the region.
        match_low_quality: whether gts take their best candidates at all.
        gpu_assign_thr: with an IoU calculator of one's own, gts from which on the CPU assigns.
        iou_calculator: config of the overlaps.
    """

    def __init__(self, pos_iou_thr: float, neg_iou_thr: float | tuple[float, float],
                 min_pos_iou: float = 0.0, gt_max_assign_all: bool = True,
                 ignore_iof_thr: float = -1, ignore_wrt_candidates: bool = True,
                 match_low_quality: bool = True, gpu_assign_thr: float = -1,
                 iou_calculator: dict[str, Any] = {"type": "BboxOverlaps2D"}
                 ) -> None:
        self.pos_iou_thr = pos_iou_thr
        self.neg_iou_thr = neg_iou_thr
        self.min_pos_iou = min_pos_iou
        self.gt_max_assign_all = gt_max_assign_all
        self.ignore_iof_thr = ignore_iof_thr
        self.ignore_wrt_candidates = ignore_wrt_candidates
        self.gpu_assign_thr = gpu_assign_thr
        self.match_low_quality = match_low_quality
        self.iou_calculator = build_iou_calculator(iou_calculator)

    def assign(self, bboxes: Tensor, gt_bboxes: Tensor, gt_bboxes_ignore: Tensor | None = None,
               gt_labels: Tensor | None = None) -> AssignResult:
        """Assign the candidates of one image.

        Args:
            bboxes: ``(N, 4)``.
            gt_bboxes: ``(G, 4)``.
            gt_bboxes_ignore: ``(I, 4)`` regions without labels.
            gt_labels: ``(G,)``.

        Returns:
            :class:`AssignResult`; all background where there is no gt.
        """
        calculator = self.iou_calculator
        plain = type(calculator) is BboxOverlaps2D and calculator.dtype is None and \
            type(self).assign_wrt_overlaps is MaxIoUAssigner.assign_wrt_overlaps
        if not plain or bboxes.dtype != gt_bboxes.dtype:
            return self._assign_by_matrix(bboxes, gt_bboxes, gt_bboxes_ignore, gt_labels)
        device = bboxes.device
        gts, num_gts = gt_bboxes[:, :4], len(gt_bboxes)
        counts = torch.full((1,), num_gts, dtype=torch.int32, device=device)
        assigned, overlaps, labels = max_iou_assign(
            bboxes[:, :4], gts[None], counts, pos_iou_thr=self.pos_iou_thr,
            neg_iou_thr=self.neg_iou_thr, min_pos_iou=self.min_pos_iou,
            match_low_quality=self.match_low_quality, gt_max_assign_all=self.gt_max_assign_all,
            ignore=None if gt_bboxes_ignore is None else gt_bboxes_ignore[None, :, :4],
            ignore_iof_thr=self.ignore_iof_thr, ignore_wrt_candidates=self.ignore_wrt_candidates,
            gt_labels=None if gt_labels is None else gt_labels[None])
        return AssignResult(num_gts, assigned[0], overlaps[0],
                            None if labels is None else labels[0])

    def assign_batch(self, bboxes: Tensor, gts: GroundTruth, valid: Tensor | None = None
                     ) -> tuple[Tensor, Tensor]:
        """Assign the candidates of a batch.

        Args:
            bboxes: ``(N, 4)`` for all images or ``(B, N, 4)``.
            gts: of the batch.
            valid: ``(B, N)`` bool; the others are neither.

        Returns:
            ``(B, N)`` gts, as :attr:`AssignResult.gt_inds` has them, and the overlaps.
        """
        boxes = gts.boxes.to(bboxes.dtype)
        assigned, overlaps, _ = max_iou_assign(
            bboxes, boxes, gts.counts, pos_iou_thr=self.pos_iou_thr, neg_iou_thr=self.neg_iou_thr,
            min_pos_iou=self.min_pos_iou, match_low_quality=self.match_low_quality,
            gt_max_assign_all=self.gt_max_assign_all,
            ignore=None if gts.ignore is None else gts.ignore.to(bboxes.dtype),
            ignore_counts=gts.ignore_counts, ignore_iof_thr=self.ignore_iof_thr,
            ignore_wrt_candidates=self.ignore_wrt_candidates, valid=valid)
        return assigned, overlaps

    def _assign_by_matrix(self, bboxes: Tensor, gt_bboxes: Tensor, gt_bboxes_ignore: Tensor | None,
                          gt_labels: Tensor | None) -> AssignResult:
        """For overlaps that only ``iou_calculator`` knows."""
        device = bboxes.device
        if 0 < self.gpu_assign_thr < len(gt_bboxes):
            bboxes, gt_bboxes = bboxes.cpu(), gt_bboxes.cpu()
            gt_bboxes_ignore = None if gt_bboxes_ignore is None else gt_bboxes_ignore.cpu()
            gt_labels = None if gt_labels is None else gt_labels.cpu()
        overlaps = self.iou_calculator(gt_bboxes, bboxes)
        if self.ignore_iof_thr > 0 and gt_bboxes_ignore is not None and \
                gt_bboxes_ignore.numel() > 0 and bboxes.numel() > 0:
            if self.ignore_wrt_candidates:
                covered = self.iou_calculator(bboxes, gt_bboxes_ignore, mode="iof").amax(1)
            else:
                covered = self.iou_calculator(gt_bboxes_ignore, bboxes, mode="iof").amax(0)
            overlaps = overlaps.masked_fill(covered > self.ignore_iof_thr, -1)
        result = self.assign_wrt_overlaps(overlaps, gt_labels)
        if overlaps.device != device:
            result.gt_inds = result.gt_inds.to(device)
            if result.max_overlaps is not None:
                result.max_overlaps = result.max_overlaps.to(device)
            if result.labels is not None:
                result.labels = result.labels.to(device)
        return result

    def assign_wrt_overlaps(self, overlaps: Tensor, gt_labels: Tensor | None = None
                            ) -> AssignResult:
        """Assign by a matrix.

        Args:
            overlaps: ``(G, N)``; -1 for a candidate that is neither.
            gt_labels: ``(G,)``.
        """
        assigned, largest = self.decided(overlaps)
        labels = None
        if gt_labels is not None:
            padded = torch.cat([gt_labels.long(), gt_labels.new_full((1,), -1).long()])
            labels = padded[torch.where(assigned > 0, assigned - 1, len(gt_labels))]
        return AssignResult(len(overlaps), assigned, largest, labels)

    def decided(self, overlaps: Tensor) -> tuple[Tensor, Tensor]:
        """Assign by matrices.

        Args:
            overlaps: ``(..., G, N)``; -1 for a candidate that is neither, and for a gt that is
                none.

        Returns:
            ``(..., N)`` gts, as :attr:`AssignResult.gt_inds` has them, and the largest overlaps.
        """
        low, high = (self.neg_iou_thr if isinstance(self.neg_iou_thr, (tuple, list))
                     else (0.0, self.neg_iou_thr))
        *batch, g, n = overlaps.shape
        if g == 0 or n == 0:
            return (overlaps.new_full((*batch, n), -1 if g else 0, dtype=torch.long),
                    overlaps.new_zeros((*batch, n)))
        largest, which = overlaps.max(-2)
        assigned = torch.where((largest >= low) & (largest < high), 0, -1)
        assigned = torch.where(largest >= self.pos_iou_thr, which + 1, assigned)
        if self.match_low_quality:
            best, at = overlaps.max(-1, keepdim=True)
            mine = overlaps == best if self.gt_max_assign_all else torch.zeros_like(
                overlaps, dtype=torch.bool).scatter(-1, at, True)
            mine = mine & (best >= self.min_pos_iou)
            # One gt after the other: the last one has a candidate.
            number = torch.arange(1, g + 1, device=overlaps.device)[:, None]
            last = torch.where(mine, number, 0).amax(-2)
            assigned = torch.where(last > 0, last, assigned)
        return assigned, largest
