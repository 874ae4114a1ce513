"""Adaptive training sample selection (ATSS, arXiv 1912.02424)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..builder import BBOX_ASSIGNERS
from ..ground_truth import GroundTruth
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
        gt_inds = overlaps.new_zeros((num,), dtype=torch.long)
        ignored = None
        if self.ignore_iof_thr > 0 and gt_bboxes_ignore is not None and gt_bboxes_ignore.numel():
            ignored = self.iou_calculator(bboxes, gt_bboxes_ignore, mode="iof").amax(
                1) > self.ignore_iof_thr
            gt_inds = gt_inds.masked_fill(ignored, -1)
        best, gt, taken = self._select(
            bboxes, num_level_bboxes, overlaps[None], gt_bboxes[None],
            distance_of=lambda far: far if ignored is None else far.masked_fill(
                ignored[:, None], INF))
        gt_inds = torch.where(taken[0], gt[0] + 1, gt_inds)
        return AssignResult(num_gt, gt_inds, best[0], labels=labels_of(gt_inds, gt_labels))

    def _select(self, bboxes: Tensor, num_level_bboxes: Sequence[int], overlaps: Tensor,
                gt_bboxes: Tensor, valid: Tensor | None = None,
                distance_of: Callable[[Tensor], Tensor] = lambda far: far
                ) -> tuple[Tensor, Tensor, Tensor]:
        """Steps 3 to 15 of the paper's algorithm 1, for a batch.

        Args:
            bboxes: [N, 4], priors.
            num_level_bboxes: how many each level has.
            overlaps: [B, N, G].
            gt_bboxes: [B, G, 4].
            valid: [B, N]; the other priors are no candidates.
            distance_of: changes the distances [B, N, G] of the centres.

        Returns:
            Overlap and gt of each prior, and whether any took it, ``[B, N]``.
        """
        centers = box_centers(bboxes)
        apart = (centers[:, None] - box_centers(gt_bboxes)[:, None]).pow(2).sum(-1).sqrt()
        apart = distance_of(apart)
        if valid is not None:
            apart = apart.masked_fill(~valid[..., None], torch.inf)
        start, nearest = 0, []
        for level in apart.split(list(num_level_bboxes), dim=1):
            k = min(self.topk, level.shape[1])
            nearest.append(level.topk(k, dim=1, largest=False).indices + start)
            start += level.shape[1]
        candidates = torch.cat(nearest, dim=1)  # [B, K, G]
        mine = overlaps.gather(1, candidates)
        counts = apart.gather(1, candidates) < torch.inf
        n = counts.sum(1, keepdim=True)
        mean = (mine * counts).sum(1, keepdim=True) / n
        std = (((mine - mean) * counts).square().sum(1, keepdim=True) / (n - 1)).sqrt()
        inside = depth_in_boxes(centers[candidates], gt_bboxes[:, None]) > 0.01
        return highest_overlap(overlaps, candidates, counts & inside & (mine >= mean + std), INF)

    def assign_levels(self, bboxes: Tensor, num_level_bboxes: Sequence[int], gts: GroundTruth,
                      valid: Tensor, cls_scores: Tensor | None = None,
                      bbox_preds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Assign the gts of a batch.

        Args:
            bboxes: [N, 4], priors of all levels.
            num_level_bboxes: how many each level has.
            gts: of the batch.
            valid: [B, N]; the others are neither.
            cls_scores: [B, N, C] logits, with ``alpha``.
            bbox_preds: [B, N, 4], with ``alpha``.

        Returns:
            ``[B, N]`` gts, as :attr:`AssignResult.gt_inds` has them, and the overlaps.

        Raises:
            ValueError: ``alpha`` is set and predictions are missing.
        """
        b, g = gts.labels.shape
        nobody = torch.where(valid, 0, -1)
        if g == 0:
            return nobody, bboxes.new_zeros(nobody.shape)
        if self.ignore_iof_thr > 0 and gts.ignore is not None and gts.ignore_counts is not None:
            region = torch.arange(gts.ignore.shape[1], device=bboxes.device)
            inside = self.iou_calculator(bboxes.expand(b, -1, -1), gts.ignore, mode="iof")
            inside = inside.masked_fill((region >= gts.ignore_counts[:, None])[:, None], -1.0)
            ignored = inside.amax(2) > self.ignore_iof_thr
            nobody = nobody.masked_fill(ignored, -1)
            far = lambda apart: apart.masked_fill(ignored[..., None], INF)  # noqa: E731
        else:
            far = lambda apart: apart  # noqa: E731
        overlaps = self._overlaps(bboxes.expand(b, -1, -1), gts.boxes.to(bboxes.dtype),
                                  gts.labels, cls_scores, bbox_preds)
        there = torch.arange(g, device=bboxes.device) < gts.counts[:, None]
        # The overlap of what pads the batch is negative, so that no prior prefers it.
        overlaps = torch.where(there[:, None], overlaps, -1.0)
        best, gt, taken = self._select(bboxes, num_level_bboxes, overlaps,
                                       gts.boxes.to(bboxes.dtype), valid, far)
        taken = taken & there.gather(1, gt)
        return torch.where(taken, gt + 1, nobody), best

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
        own = gt_labels.long()[..., None, :].expand(*ious.shape)
        return cls_scores.gather(-1, own).sigmoid() ** (1 - self.alpha) * ious ** self.alpha
