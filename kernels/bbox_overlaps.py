"""Overlaps of boxes, in plain torch: what the assigners' kernels reproduce without the matrix."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["bbox_overlaps"]


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, mode: str = "iou", is_aligned: bool = False,
                  eps: float = 1e-6) -> Tensor:
    """Overlap of boxes, pair by pair or each with each; with gradients.

    Args:
        bboxes1: ``(..., M, 4)`` x1, y1, x2, y2.
        bboxes2: ``(..., N, 4)``, with the same axes before.
        mode: ``'iou'``, intersection over union; ``'iof'``, intersection over the area of
            ``bboxes1``; ``'giou'`` (arXiv 1902.09630), the IoU less the share of the enclosing box
            that neither covers.
        is_aligned: box i with box i alone; then M = N.
        eps: the smallest area that is divided by.

    Returns:
        ``(..., M, N)``, or ``(..., M)`` if aligned. A NaN coordinate makes its overlaps NaN. On a
        CPU widths and heights of float16 boxes are clamped in float32, as MMDetection does.

    Raises:
        ValueError: an unknown mode, or shapes that do not fit.
    """
    if mode not in ("iou", "iof", "giou"):
        raise ValueError(f"bbox_overlaps: mode must be 'iou', 'iof' or 'giou', got {mode!r}")
    for name, boxes in (("bboxes1", bboxes1), ("bboxes2", bboxes2)):
        if boxes.dim() < 2 or (boxes.shape[-1] != 4 and boxes.shape[0] != 0):
            raise ValueError(f"bbox_overlaps: {name} must be (..., N, 4), got "
                             f"{tuple(boxes.shape)}")
    if bboxes1.shape[:-2] != bboxes2.shape[:-2]:
        raise ValueError("bbox_overlaps: the axes before the last two must be equal, got "
                         f"{tuple(bboxes1.shape)} and {tuple(bboxes2.shape)}")
    m, n = bboxes1.shape[-2], bboxes2.shape[-2]
    if is_aligned and m != n:
        raise ValueError(f"bbox_overlaps: aligned boxes must be as many, got {m} and {n}")
    if m * n == 0:
        return bboxes1.new_empty((*bboxes1.shape[:-2], m) if is_aligned
                                 else (*bboxes1.shape[:-2], m, n))
    area1 = (bboxes1[..., 2] - bboxes1[..., 0]) * (bboxes1[..., 3] - bboxes1[..., 1])
    area2 = (bboxes2[..., 2] - bboxes2[..., 0]) * (bboxes2[..., 3] - bboxes2[..., 1])
    if not is_aligned:
        bboxes1, bboxes2 = bboxes1[..., :, None, :], bboxes2[..., None, :, :]
        area1, area2 = area1[..., :, None], area2[..., None, :]
    size = _positive(torch.minimum(bboxes1[..., 2:], bboxes2[..., 2:])
                     - torch.maximum(bboxes1[..., :2], bboxes2[..., :2]))
    overlap = size[..., 0] * size[..., 1]
    union = area1 + area2 - overlap if mode != "iof" else area1.expand_as(overlap)
    floor = union.new_full((1,), eps)
    union = torch.maximum(union, floor)
    ious = overlap / union
    if mode != "giou":
        return ious
    size = _positive(torch.maximum(bboxes1[..., 2:], bboxes2[..., 2:])
                     - torch.minimum(bboxes1[..., :2], bboxes2[..., :2]))
    enclosing = torch.maximum(size[..., 0] * size[..., 1], floor)
    return ious - (enclosing - union) / enclosing


def _positive(size: Tensor) -> Tensor:
    if size.dtype == torch.float16 and size.device.type == "cpu":
        return size.float().clamp(min=0).half()
    return size.clamp(min=0)
