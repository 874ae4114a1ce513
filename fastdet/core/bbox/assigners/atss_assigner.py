"""Adaptive training sample selection (ATSS, arXiv 1912.02424)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..builder import BBOX_ASSIGNERS
from ..iou_calculators import build_iou_calculator
from .assign_result import AssignResult
from .base_assigner import BaseAssigner
from .centers import box_centers, depth_in_boxes, highest_overlap, labels_of, nothing_assigned

__all__ = ["ATSSAssigner"]

INF = 1e8


@BBOX_ASSIGNERS.register_module()
class ATSSAssigner(BaseAssigner):
    """Each gt takes, of its nearest priors on every level, those of an overlap above the mean.

    Args:
        topk: how many nearest priors of each level are considered.
        alpha: with it the overlap is a cost of classes and boxes (DDOD, arXiv 2107.02963).
        iou_calculator: the config of the overlap.
        ignore_iof_thr: priors inside ignored regions by more than this share are left out; -1
            for none.
    """

    def __init__(self, topk: int, alpha: float | None = None,
                 iou_calculator: dict[str, Any] = dict(type="BboxOverlaps2D"),
                 ignore_iof_thr: float = -1) -> None:
        self.topk = topk
        self.alpha = alpha
        self.iou_calculator = build_iou_calculator(iou_calculator)
        self.ignore_iof_thr = ignore_iof_thr

    def assign(self, bboxes: Tensor, num_level_bboxes: Sequence[int],  # type: ignore[override]
               gt_bboxes: Tensor, gt_bboxes_ignore: Tensor | None = None,
               gt_labels: Tensor | None = None, cls_scores: Tensor | None = None,
               bbox_preds: Tensor | None = None) -> AssignResult:
        """Assign the gts of one image.

        Args:
            bboxes: [N, 4], priors of all levels.
            num_level_bboxes: how many each level has.
            gt_bboxes: [G, 4].
            gt_bboxes_ignore: [g, 4].
            gt_labels: [G].
            cls_scores: [N, C] logits, with ``alpha``.
            bbox_preds: [N, 4], with ``alpha``.

        Raises:
            ValueError: ``alpha`` is set and predictions are missing.
        """
        bboxes = bboxes[:, :4]
        num_gt, num = gt_bboxes.size(0), bboxes.size(0)
        overlaps = self._overlaps(bboxes, gt_bboxes, gt_labels, cls_scores, bbox_preds)
        if num_gt == 0 or num == 0:
            return nothing_assigned(overlaps, num_gt, num, gt_labels)
        centers = box_centers(bboxes)
        distances = (centers[:, None] - box_centers(gt_bboxes)[None]).pow(2).sum(-1).sqrt()
        gt_inds = overlaps.new_zeros((num,), dtype=torch.long)
        if self.ignore_iof_thr > 0 and gt_bboxes_ignore is not None and gt_bboxes_ignore.numel():
            ignored = self.iou_calculator(bboxes, gt_bboxes_ignore, mode="iof").amax(
                1) > self.ignore_iof_thr
            distances = distances.masked_fill(ignored[:, None], INF)
            gt_inds = gt_inds.masked_fill(ignored, -1)
        start, nearest = 0, []
        for level in distances.split(list(num_level_bboxes)):
            nearest.append(level.topk(min(self.topk, len(level)), dim=0, largest=False)[1] + start)
            start += len(level)
        candidates = torch.cat(nearest)
        candidate_overlaps = overlaps.gather(0, candidates)
        least = candidate_overlaps.mean(0) + candidate_overlaps.std(0)
        chosen = (candidate_overlaps >= least) & (
            depth_in_boxes(centers[candidates], gt_bboxes) > 0.01)
        best, gt, taken = highest_overlap(overlaps, candidates, chosen, INF)
        gt_inds = torch.where(taken, gt + 1, gt_inds)
        return AssignResult(num_gt, gt_inds, best, labels=labels_of(gt_inds, gt_labels))

    def _overlaps(self, bboxes: Tensor, gt_bboxes: Tensor, gt_labels: Tensor | None,
                  cls_scores: Tensor | None, bbox_preds: Tensor | None) -> Tensor:
        given = cls_scores is not None or bbox_preds is not None
        if self.alpha is None:
            if given:
                warnings.warn("ATSSAssigner: predictions are used only where alpha is set",
                              stacklevel=3)
            return self.iou_calculator(bboxes, gt_bboxes)
        if cls_scores is None or bbox_preds is None or gt_labels is None:
            raise ValueError(f"ATSSAssigner: with alpha={self.alpha}, cls_scores, bbox_preds and "
                             "gt_labels must be given")
        ious = self.iou_calculator(bbox_preds, gt_bboxes)
        return cls_scores[:, gt_labels].sigmoid() ** (1 - self.alpha) * ious ** self.alpha
