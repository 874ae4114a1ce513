"""Non-maximum suppression with mmcv's arguments, data types and order of results."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from fastdet.kernels.nms import batched_nms_indices
from fastdet.kernels.soft_nms import METHODS
from fastdet.kernels.soft_nms import match as _match
from fastdet.kernels.soft_nms import soft_nms as _soft_nms

__all__ = ["NMSop", "SoftNMSop", "batched_nms", "nms", "nms_match", "soft_nms"]

Array = TypeVar("Array", Tensor, np.ndarray)


def _tensors(name: str, boxes: Any, scores: Any) -> tuple[Tensor, Tensor]:
    """Boxes [N, 4] and scores [N] as tensors."""
    if not isinstance(boxes, (Tensor, np.ndarray)) or not isinstance(scores, (Tensor, np.ndarray)):
        raise TypeError(f"{name}: boxes and scores must be tensors or arrays, got "
                        f"{type(boxes).__name__} and {type(scores).__name__}")
    boxes, scores = torch.as_tensor(boxes), torch.as_tensor(scores)
    if boxes.dim() != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise ValueError(f"{name}: boxes must be [N, 4] and scores [N], got {list(boxes.shape)} "
                         f"and {list(scores.shape)}")
    return boxes, scores


class NMSop:
    """The indices alone, under the name of mmcv's function."""

    @staticmethod
    def apply(bboxes: Tensor, scores: Tensor, iou_threshold: float, offset: int,
              score_threshold: float, max_num: int) -> Tensor:
        """Indices that :func:`nms` keeps, by descending score."""
        return batched_nms_indices(bboxes, scores, None, float(iou_threshold), max_num,
                                   score_threshold=score_threshold, offset=offset)


class SoftNMSop:
    """Soft suppression under the name of mmcv's function."""

    @staticmethod
    def apply(boxes: Tensor, scores: Tensor, iou_threshold: float, sigma: float, min_score: float,
              method: int, offset: int) -> tuple[Tensor, Tensor]:
        """Boxes with their new scores, [K, 5], and their indices; ``method`` by number."""
        return _soft_nms(boxes, scores, iou_threshold, sigma, min_score, METHODS[method], offset)


def nms(boxes: Array, scores: Array, iou_threshold: float, offset: int = 0,
        score_threshold: float = 0, max_num: int = -1) -> tuple[Array, Array]:
    """Keep a box unless a better one that is kept overlaps it by more than a threshold.

    Args:
        boxes: ``(N, 4)``, x1, y1, x2, y2; a tensor or an array, as are the results.
        scores: ``(N,)``. Equal ones count in the order in which they stand, NaN counts as highest.
        iou_threshold: intersection over union above which a box is suppressed.
        offset: 1 if x2 and y2 belong to the box (its width is ``x2 - x1 + 1``), else 0.
        score_threshold: if positive, only boxes of higher scores take part.
        max_num: keep at most so many; all if not positive.

    Returns:
        Kept boxes and their scores, ``(K, 5)``, by descending score; and their indices ``(K,)``.

    Raises:
        TypeError: boxes or scores are neither tensors nor arrays.
        ValueError: shapes do not fit, or offset is neither 0 nor 1.
    """
    given, (boxes_, scores_) = boxes, _tensors("nms", boxes, scores)
    keep = NMSop.apply(boxes_, scores_, iou_threshold, offset, score_threshold, max_num)
    dets = torch.cat([boxes_[keep], scores_[keep, None]], 1)
    return _as_given(given, dets, keep)


def _as_given(given: Array, dets: Tensor, keep: Tensor) -> tuple[Array, Array]:
    return (dets, keep) if isinstance(given, Tensor) else (dets.numpy(), keep.numpy())


def soft_nms(boxes: Array, scores: Array, iou_threshold: float = 0.3, sigma: float = 0.5,
             min_score: float = 1e-3, method: str = "linear", offset: int = 0
             ) -> tuple[Array, Array]:
    """Lower the scores of boxes that better ones overlap (`arXiv 1704.04503
    <https://arxiv.org/abs/1704.04503>`_).

    Args:
        boxes: ``(N, 4)``, x1, y1, x2, y2; a tensor or an array, as are the results.
        scores: ``(N,)``.
        iou_threshold: overlaps from it on lower a score, by ``'linear'`` and ``'naive'``.
        sigma: variance of ``'gaussian'``, which lowers by exp(-IoU^2 / sigma).
        min_score: a box whose score falls below it is dropped.
        method: ``'linear'`` (times 1 - IoU), ``'gaussian'`` or ``'naive'`` (to zero).
        offset: 1 if x2 and y2 belong to the box, else 0.

    Returns:
        Boxes that are left and their new scores, ``(K, 5)``, in the order in which they were
        chosen; and their indices ``(K,)``.

    Raises:
        TypeError: boxes or scores are neither tensors nor arrays.
        ValueError: shapes, the method or the offset do not fit.
    """
    given, (boxes_, scores_) = boxes, _tensors("soft_nms", boxes, scores)
    return _as_given(given, *_soft_nms(boxes_, scores_, float(iou_threshold), float(sigma),
                                       float(min_score), method, offset))


#: What ``type`` in the config of :func:`batched_nms` may name.
_OPERATORS: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {"nms": nms, "soft_nms": soft_nms}


def _in_groups(boxes: Tensor, scores: Tensor, groups: Tensor | None, operator: Any,
               cfg: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """New scores [K] and indices [K] of boxes that the operator keeps, in its order."""
    if operator is nms:
        keep = batched_nms_indices(boxes, scores, groups, **_arguments_of_nms(cfg))
        return scores[keep], keep
    dets, keep = _soft_nms(boxes, scores, groups=groups, **cfg)
    return dets[:, -1], keep


def batched_nms(boxes: Tensor, scores: Tensor, idxs: Tensor, nms_cfg: Mapping[str, Any] | None,
                class_agnostic: bool = False) -> tuple[Tensor, Tensor]:
    """Suppression within each class, by a config.

    Boxes of different classes do not meet, rather than being moved apart: no bit of a coordinate
    is lost.

    Args:
        boxes: ``(N, 4)``, x1, y1, x2, y2.
        scores: ``(N,)``.
        idxs: ``(N,)``, the class of every box.
        nms_cfg: arguments of the operator, and ``type``, ``'nms'`` (the default) or
            ``'soft_nms'``; ``class_agnostic``, which replaces the argument; and ``split_thr``
            (10000), the number of boxes from which classes are suppressed apart even if
            ``class_agnostic``, and ``max_num`` counts all of them together. With ``None`` boxes
            are sorted only.
        class_agnostic: let boxes of all classes meet.

    Returns:
        Kept boxes and their scores, ``(K, 5)``, by descending score; and their indices ``(K,)``.

    Raises:
        ValueError: shapes do not fit, or the operator is not known.
    """
    if nms_cfg is None:
        scores, keep = scores.sort(descending=True, stable=True)
        return torch.cat([boxes[keep], scores[:, None]], -1), keep
    cfg = dict(nms_cfg)
    class_agnostic = cfg.pop("class_agnostic", class_agnostic)
    kind = cfg.pop("type", "nms")
    operator = _OPERATORS.get(kind)
    if operator is None:
        raise ValueError(f"batched_nms: type must be one of {', '.join(_OPERATORS)}, got {kind!r}")
    _tensors("batched_nms", boxes, scores)
    if idxs.shape != scores.shape:
        raise ValueError(f"batched_nms: idxs must be [{len(boxes)}], got {list(idxs.shape)}")
    split = boxes.shape[0] >= cfg.pop("split_thr", 10000)
    if operator is nms or not split:
        groups = None if class_agnostic and not split else idxs
        values, keep = _in_groups(boxes, scores, groups, operator, cfg)
    else:
        max_num = cfg.pop("max_num", -1)
        stays, lowered = torch.zeros_like(scores, dtype=torch.bool), torch.zeros_like(scores)
        for one in torch.unique(idxs):
            mine = (idxs == one).nonzero().view(-1)
            values, keep = _in_groups(boxes[mine], scores[mine], None, operator, cfg)
            stays[mine[keep]] = True
            lowered[mine[keep]] = values.to(scores.dtype)
        keep = stays.nonzero().view(-1)
        values, order = lowered[keep].sort(descending=True, stable=True)
        keep = keep[order]
        if max_num > 0:
            values, keep = values[:max_num], keep[:max_num]
    return torch.cat([boxes[keep], values[:, None]], -1), keep


def _arguments_of_nms(cfg: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the operator from those of :func:`nms`."""
    known = {"iou_threshold", "offset", "score_threshold", "max_num"}
    if unknown := cfg.keys() - known:
        raise TypeError(f"batched_nms: nms takes {', '.join(sorted(known))}, "
                        f"got {', '.join(sorted(unknown))}")
    if "iou_threshold" not in cfg:
        raise TypeError("batched_nms: nms needs iou_threshold")
    return {**cfg, "iou_threshold": float(cfg["iou_threshold"])}


def nms_match(dets: Array, iou_threshold: float) -> list[Array]:
    """Groups of boxes, each a kept one and those that it suppresses.

    Args:
        dets: ``(N, 5)``, x1, y1, x2, y2 and score; a tensor or an array.
        iou_threshold: intersection over union from which on a box is suppressed.

    Returns:
        One tensor or array of int64 indices per kept box, the kept one first.

    Raises:
        ValueError: the shape does not fit.
    """
    if len(dets) == 0:
        return []
    tensor = torch.as_tensor(dets).detach()
    if tensor.dim() != 2 or tensor.shape[1] != 5:
        raise ValueError(f"nms_match: dets must be [N, 5], got {list(tensor.shape)}")
    groups = _match(tensor, float(iou_threshold))
    if isinstance(dets, Tensor):
        return [torch.tensor(one, device=dets.device) for one in groups]
    return [np.array(one, dtype=np.int64) for one in groups]
