"""Suppression of boxes that are scored for every class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ...ops.nms import batched_nms
from ..bbox.iou_calculators import bbox_overlaps

__all__ = ["fast_nms", "multiclass_nms"]


def multiclass_nms(multi_bboxes: Tensor, multi_scores: Tensor, score_thr: float,
                   nms_cfg: Mapping[str, Any] | None, max_num: int = -1,
                   score_factors: Tensor | None = None, return_inds: bool = False
                   ) -> tuple[Tensor, ...]:
    """Detections of all classes, suppressed class by class.

    Args:
        multi_bboxes: ``(N, 4)``, or ``(N, 4 C)`` with boxes of each of the C classes.
        multi_scores: ``(N, C + 1)``, the background last.
        score_thr: a box takes part in a class where its score is higher.
        nms_cfg: see :func:`fastdet.ops.batched_nms`.
        max_num: keep at most so many of all classes; all if not positive.
        score_factors: ``(N,)``, multiplies scores after they were held against the threshold.
        return_inds: also return where each detection was, ``row * C + class``.

    Returns:
        Boxes and scores ``(K, 5)``, by descending score; classes ``(K,)``; and the indices
        ``(K,)``, if asked for.

    Raises:
        ValueError: shapes do not fit.
    """
    n, classes = len(multi_scores), multi_scores.shape[1] - 1
    if len(multi_bboxes) != n or multi_bboxes.shape[1] not in (4, 4 * classes):
        raise ValueError(f"multiclass_nms: multi_bboxes must be ({n}, 4) or ({n}, {4 * classes}) "
                         f"for scores {tuple(multi_scores.shape)}, got "
                         f"{tuple(multi_bboxes.shape)}")
    foreground = multi_scores[:, :-1]
    row, label = (foreground > score_thr).nonzero(as_tuple=True)
    scores = foreground[row, label]
    if score_factors is not None:
        scores = scores * score_factors[row]
    own = multi_bboxes.shape[1] > 4
    boxes = multi_bboxes.view(n, -1, 4)[row, label if own else torch.zeros_like(label)]
    inds = row * classes + label
    if len(inds) == 0:
        dets = torch.cat([boxes, scores[:, None]], 1)
    else:
        dets, keep = batched_nms(boxes, scores, label, nms_cfg)
        if max_num > 0:
            dets, keep = dets[:max_num], keep[:max_num]
        label, inds = label[keep], inds[keep]
    return (dets, label, inds) if return_inds else (dets, label)


def fast_nms(multi_bboxes: Tensor, multi_scores: Tensor, multi_coeffs: Tensor, score_thr: float,
             iou_thr: float, top_k: int, max_num: int = -1) -> tuple[Tensor, Tensor, Tensor]:
    """Suppression in one step (`YOLACT <https://arxiv.org/abs/1904.02689>`_).

    A box is dropped if any better one of its class overlaps it, even one that is itself dropped.

    Args:
        multi_bboxes: ``(N, 4)``.
        multi_scores: ``(N, C + 1)``, the background last.
        multi_coeffs: ``(N, K)``, coefficients of the masks.
        score_thr: scores have to be higher.
        iou_thr: a larger overlap drops.
        top_k: candidates of a class, the best ones.
        max_num: keep at most so many of all classes; all if not positive.

    Returns:
        Boxes and scores ``(M, 5)`` by descending score, classes ``(M,)``, coefficients ``(M, K)``.
    """
    scores, index = multi_scores[:, :-1].t().sort(dim=1, descending=True)
    scores, index = scores[:, :top_k], index[:, :top_k]
    boxes = multi_bboxes[index]
    covered = bbox_overlaps(boxes, boxes).triu(diagonal=1).amax(dim=1)
    label, place = ((covered <= iou_thr) & (scores > score_thr)).nonzero(as_tuple=True)
    row = index[label, place]
    best, order = scores[label, place].sort(descending=True)
    if max_num > 0:
        best, order = best[:max_num], order[:max_num]
    row = row[order]
    return torch.cat([multi_bboxes[row], best[:, None]], 1), label[order], multi_coeffs[row]
