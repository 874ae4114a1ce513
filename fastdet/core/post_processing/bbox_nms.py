"""Suppression of boxes of many classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdet.ops import batched_nms

from ..bbox.iou_calculators import bbox_overlaps

__all__ = ["fast_nms", "multiclass_nms"]


def multiclass_nms(multi_bboxes: Tensor, multi_scores: Tensor, score_thr: float,
                   nms_cfg: dict[str, Any], max_num: int = -1,
                   score_factors: Tensor | None = None,
                   return_inds: bool = False) -> tuple[Tensor, ...]:
    """Suppress within classes.

    Args:
        multi_bboxes: [N, 4], or [N, 4 C], a box for each class.
        multi_scores: [N, C + 1]; the last is background.
        score_thr: pairs of box and class must be above it.
        nms_cfg: ``type`` and the arguments of the suppression.
        max_num: keep the best so many; all if not positive.
        score_factors: [N], multiplied with the scores after the threshold.
        return_inds: return which of the N C pairs were kept, too.

    Returns:
        Boxes and scores ``[n, 5]``, labels ``[n]``, and with ``return_inds`` pairs ``[n]``.
    """
    n, classes = len(multi_scores), multi_scores.size(1) - 1
    scores = multi_scores[:, :-1]
    pairs = (scores > score_thr).flatten().nonzero().squeeze(1)
    if score_factors is not None:
        scores = scores * score_factors.view(-1, 1)
    boxes = (multi_bboxes.view(n, -1, 4) if multi_bboxes.shape[1] > 4 else
             multi_bboxes[:, None].expand(n, classes, 4)).reshape(-1, 4)[pairs]
    scores, labels = scores.flatten()[pairs], pairs % classes
    if boxes.numel() == 0:
        found, keep = torch.cat([boxes, scores[:, None]], dim=-1), pairs
    else:
        found, keep = batched_nms(boxes, scores, labels, nms_cfg)
        if max_num > 0:
            found, keep = found[:max_num], keep[:max_num]
        labels, pairs = labels[keep], pairs[keep]
    return (found, labels, pairs) if return_inds else (found, labels)


def fast_nms(multi_bboxes: Tensor, multi_scores: Tensor, multi_coeffs: Tensor, score_thr: float,
             iou_thr: float, top_k: int, max_num: int = -1) -> tuple[Tensor, Tensor, Tensor]:
    """Suppress by every better box, also by suppressed ones (YOLACT, arXiv 1904.02689).

    Args:
        multi_bboxes: [N, 4].
        multi_scores: [N, C + 1]; the last is background.
        multi_coeffs: [N, K], coefficients of masks.
        score_thr: pairs of box and class must be above it.
        iou_thr: overlap above which a box is suppressed.
        top_k: boxes of a class that take part.
        max_num: keep the best so many; all if not positive.

    Returns:
        Boxes and scores ``[n, 5]``, labels ``[n]`` and coefficients ``[n, K]``.
    """
    scores, rows = multi_scores[:, :-1].t().sort(1, descending=True)
    scores, rows = scores[:, :top_k], rows[:, :top_k]
    boxes = multi_bboxes[rows]
    worst = bbox_overlaps(boxes, boxes).triu(diagonal=1).amax(1)
    keep = (worst <= iou_thr) & (scores > score_thr)
    labels = torch.arange(len(keep), device=keep.device)[:, None].expand_as(keep)[keep]
    scores, order = scores[keep].sort(descending=True)
    if max_num > 0:
        scores, order = scores[:max_num], order[:max_num]
    rows = rows[keep][order]
    return (torch.cat([multi_bboxes[rows], scores[:, None]], dim=1), labels[order],
            multi_coeffs[rows])
