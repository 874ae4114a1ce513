"""Greedy non-maximum suppression in plain torch: the definition and the oracle of the tests."""

from __future__ import annotations

import torch
from torch import Tensor


def overlaps(box: Tensor, boxes: Tensor, offset: int) -> Tensor:
    """Intersection over union of one box with many.

    A box whose area is zero or NaN overlaps nothing: 0 / 0 is NaN, and NaN exceeds no threshold.

    Args:
        box: [4], x1, y1, x2, y2.
        boxes: [M, 4].
        offset: 1 if x2 and y2 belong to the box (width ``x2 - x1 + 1``), else 0.

    Returns:
        [M].
    """
    corner, end = torch.maximum(box[:2], boxes[:, :2]), torch.minimum(box[2:], boxes[:, 2:])
    inter = (end - corner + offset).clamp(min=0).prod(1)
    area = (box[2:] - box[:2] + offset).prod()
    return inter / (area + (boxes[:, 2:] - boxes[:, :2] + offset).prod(1) - inter)


def nms_reference(boxes: Tensor, groups: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Keep a box unless a kept one before it, of its group, overlaps it by more than a threshold.

    Args:
        boxes: [N, 4], the best one first.
        groups: [N], boxes of different groups do not see each other.
        iou_threshold: overlaps above it suppress.
        offset: 0 or 1, see :func:`overlaps`.

    Returns:
        bool [N].
    """
    if boxes.dtype in (torch.float16, torch.bfloat16):
        boxes = boxes.float()
    keep = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for i in range(len(boxes)):
        if keep[i]:
            close = overlaps(boxes[i], boxes[i + 1:], offset) > iou_threshold
            keep[i + 1:] &= ~(close & (groups[i + 1:] == groups[i]))
    return keep
