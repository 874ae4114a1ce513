"""Overlaps of boxes on the host."""

from __future__ import annotations

import numpy as np

__all__ = ["areas", "bbox_overlaps"]


def areas(boxes: np.ndarray, use_legacy_coordinate: bool = False) -> np.ndarray:
    """Areas [n] of boxes [n, 4 or more]; the legacy ones hold their last pixel, too."""
    extra = 1.0 if use_legacy_coordinate else 0.0
    return (boxes[:, 2] - boxes[:, 0] + extra) * (boxes[:, 3] - boxes[:, 1] + extra)


def bbox_overlaps(bboxes1: np.ndarray, bboxes2: np.ndarray, mode: str = "iou", eps: float = 1e-6,
                  use_legacy_coordinate: bool = False) -> np.ndarray:
    """Overlaps of all pairs, float32.

    Args:
        bboxes1: [n, 4].
        bboxes2: [k, 4].
        mode: ``'iou'``, or ``'iof'``: over the area of the first box.
        eps: the least area to divide by.
        use_legacy_coordinate: a box holds its last pixel, too.

    Returns:
        [n, k].

    Raises:
        ValueError: the mode is another.
    """
    if mode not in ("iou", "iof"):
        raise ValueError(f"bbox_overlaps: mode must be 'iou' or 'iof', got {mode!r}")
    first, second = (np.asarray(b, dtype=np.float32) for b in (bboxes1, bboxes2))
    if len(first) == 0 or len(second) == 0:
        return np.zeros((len(first), len(second)), dtype=np.float32)
    extra = np.float32(use_legacy_coordinate)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:4], second[None, :, 2:4])
    inner = (high - low + extra).clip(min=0).prod(axis=-1)
    own = areas(first, use_legacy_coordinate)[:, None].astype(np.float32)
    if mode == "iou":
        own = own + areas(second, use_legacy_coordinate)[None].astype(np.float32) - inner
    return inner / np.maximum(own, np.float32(eps))
