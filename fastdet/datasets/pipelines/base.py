"""What transforms share: their repr, and what they do to boxes, labels and masks together."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["LABELS", "MASKS", "Results", "Transform", "inside", "keep_rows", "sides"]

#: An image and all that belongs to it; a transform writes into it and returns it.
Results = dict[str, Any]

#: What has a row for each of these boxes.
LABELS = {"gt_bboxes": "gt_labels", "gt_bboxes_ignore": "gt_labels_ignore"}
MASKS = {"gt_bboxes": "gt_masks", "gt_bboxes_ignore": "gt_masks_ignore"}


class Transform:
    """A step of a pipeline."""

    def __call__(self, results: Results) -> Results | None:
        """Change ``results``; ``None`` drops the image."""
        raise TypeError(f"{type(self).__name__} does not define what it does to an image")

    def __repr__(self) -> str:
        shown = ", ".join(f"{k}={v!r}" for k, v in vars(self).items() if not k.startswith("_"))
        return f"{type(self).__name__}({shown})"


def sides(boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Widths and heights of boxes [n, 4]."""
    return boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]


def inside(boxes: np.ndarray, height: float, width: float) -> np.ndarray:
    """Which boxes [n, 4] have a part in the image."""
    return ((boxes[:, 0] < width) & (boxes[:, 2] > 0)
            & (boxes[:, 1] < height) & (boxes[:, 3] > 0))


def keep_rows(results: Results, key: str, keep: np.ndarray) -> None:
    """Of labels and masks that belong to the boxes ``key``, keep these rows."""
    label, mask = LABELS.get(key), MASKS.get(key)
    if label in results:
        results[label] = results[label][keep]
    if mask in results:
        results[mask] = results[mask][np.flatnonzero(keep) if keep.dtype == bool else keep]
