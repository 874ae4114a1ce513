"""Overlaps of boxes in NumPy."""

from __future__ import annotations

import numpy as np

__all__ = ["bbox_overlaps"]


def bbox_overlaps(bboxes1: np.ndarray, bboxes2: np.ndarray, mode: str = "iou",
                  eps: float = 1e-6, use_legacy_coordinate: bool = False) -> np.ndarray:
    """Overlaps of every pair of boxes.

    Args:
        bboxes1: [n, 4], corners; more columns are not looked at.
        bboxes2: [k, 4].
        mode: ``'iou'``, or ``'iof'``: over the area of the first box.
        eps: the least area that is divided by.
        use_legacy_coordinate: the last pixel belongs to a box: its width is x2 - x1 + 1.

    Returns:
        [n, k] float32.

    Raises:
        ValueError: the mode is unknown.
    """
    if mode not in ("iou", "iof"):
        raise ValueError(f"mode must be iou or iof, got {mode!r}")
    a, b = bboxes1.astype(np.float32), bboxes2.astype(np.float32)
    if not len(a) or not len(b):
        return np.zeros((len(a), len(b)), dtype=np.float32)
    extra = np.float32(1 if use_legacy_coordinate else 0)
    area_a = (a[:, 2] - a[:, 0] + extra) * (a[:, 3] - a[:, 1] + extra)
    area_b = (b[:, 2] - b[:, 0] + extra) * (b[:, 3] - b[:, 1] + extra)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:4], b[None, :, 2:4])
    sides = np.maximum(high - low + extra, 0)
    overlap = sides[..., 0] * sides[..., 1]
    union = area_a[:, None] + (area_b - overlap if mode == "iou" else np.zeros_like(overlap))
    return overlap / np.maximum(union, np.float32(eps))
