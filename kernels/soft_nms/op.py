"""Soft suppression and matching: checks, and the way to the host, where both run.

Each choice depends on the one before it: there is nothing that a GPU could do at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .reference import METHODS, match_reference, soft_nms_reference

__all__ = ["match", "soft_nms"]


def _exact(boxes: Tensor) -> Tensor:
    boxes = boxes.detach().cpu()
    return boxes.float() if boxes.dtype in (torch.float16, torch.bfloat16) else boxes


def soft_nms(boxes: Tensor, scores: Tensor, iou_threshold: float = 0.3, sigma: float = 0.5,
             min_score: float = 1e-3, method: str = "linear", offset: int = 0,
             groups: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Soft non-maximum suppression (arXiv 1704.04503).

    Args:
        boxes: [N, 4], x1, y1, x2, y2.
        scores: [N].
        iou_threshold: overlap from which on ``'linear'`` and ``'naive'`` lower a score.
        sigma: of ``'gaussian'``.
        min_score: a box whose score falls below it is dropped.
        method: ``'linear'``, ``'gaussian'`` or ``'naive'``.
        offset: 1 if x2 and y2 belong to the box, else 0.
        groups: [N], boxes of different groups do not meet; ``None`` for one group.

    Returns:
        Boxes with their new scores, [K, 5], in the order in which they were chosen, of the type
        of ``boxes``; and their indices, int64 [K].

    Raises:
        ValueError: shapes, the method or the offset do not fit.
    """
    if boxes.dim() != 2 or boxes.shape[1] != 4 or not boxes.is_floating_point():
        raise ValueError(f"soft_nms: boxes must be floating-point [N, 4], got {boxes.dtype} "
                         f"{list(boxes.shape)}")
    for name, one in (("scores", scores), ("groups", groups)):
        if one is not None and one.shape != boxes.shape[:1]:
            raise ValueError(f"soft_nms: {name} must be [{len(boxes)}], got {list(one.shape)}")
    if method not in METHODS:
        raise ValueError(f"soft_nms: method must be one of {', '.join(METHODS)}, got {method!r}")
    if offset not in (0, 1):
        raise ValueError(f"soft_nms: offset must be 0 or 1, got {offset!r}")
    keep, values = soft_nms_reference(
        _exact(boxes), _exact(scores), None if groups is None else groups.cpu(), iou_threshold,
        sigma, min_score, method, offset)
    keep = keep.to(boxes.device)
    return torch.cat([boxes[keep], values.to(boxes)[:, None]], 1), keep


def match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of indices, a kept box and those that plain suppression takes from it; see nms_match.

    Args:
        dets: [N, 5], boxes and scores.
        iou_threshold: overlap from which on a box belongs to a better one.
    """
    dets = _exact(dets)
    return match_reference(dets[:, :4], dets[:, 4], iou_threshold)
