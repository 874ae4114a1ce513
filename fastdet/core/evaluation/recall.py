"""How many of the true boxes proposals find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .bbox_overlaps import bbox_overlaps
from .report import say, text_table

__all__ = ["eval_recalls", "plot_iou_recall", "plot_num_recall", "print_recall_summary"]


def _matched(ious: np.ndarray) -> np.ndarray:
    """The overlap that each true box [g] gets: the highest pairs first, a box used once."""
    left = ious.copy()
    found = np.zeros(len(ious), dtype=np.float64)
    if left.size:
        for i in range(len(ious)):
            gt, box = np.unravel_index(left.argmax(), left.shape)
            found[i] = left[gt, box]
            left[gt], left[:, box] = -1, -1
    return found


def eval_recalls(gts: list[np.ndarray], proposals: list[np.ndarray],
                 proposal_nums: int | Sequence[int] | None = None,
                 iou_thrs: float | Sequence[float] = 0.5, logger: Any = None,
                 use_legacy_coordinate: bool = False) -> np.ndarray:
    """Recalls of proposals.

    Args:
        gts: of each image, [g, 4].
        proposals: of each image, [n, 4], or [n, 5] with scores.
        proposal_nums: how many of an image's best proposals count; one or several numbers.
        iou_thrs: the overlap at which a true box is found; one or several.
        logger: ``'silent'`` shows no table.
        use_legacy_coordinate: see :func:`bbox_overlaps`.

    Returns:
        [numbers, thresholds].
    """
    if len(gts) != len(proposals):
        raise ValueError(f"there are true boxes of {len(gts)} images and proposals of "
                         f"{len(proposals)}")
    nums, thrs = _as_arrays(proposal_nums, iou_thrs)
    found: list[list[np.ndarray]] = [[] for _ in nums]
    for gt, boxes in zip(gts, proposals):
        if boxes.ndim == 2 and boxes.shape[1] == 5:
            boxes = boxes[np.argsort(boxes[:, 4])[::-1]]
        gt = np.zeros((0, 4), dtype=np.float32) if gt is None or not len(gt) else gt
        ious = bbox_overlaps(gt, boxes[:nums[-1], :4],
                             use_legacy_coordinate=use_legacy_coordinate)
        for each, num in zip(found, nums):
            each.append(_matched(ious[:, :num]))
    total = sum(len(g) for g in found[0])
    values = np.stack([np.concatenate(each) for each in found]).astype(np.float32)
    recalls = (values[:, None] >= thrs[:, None]).sum(axis=2) / float(max(total, 1))
    print_recall_summary(recalls, nums, thrs, logger=logger)
    return recalls


def _as_arrays(nums: Any, thrs: Any) -> tuple[np.ndarray, np.ndarray]:
    thrs = np.array([0.5] if thrs is None else np.atleast_1d(thrs))
    return np.atleast_1d(np.array(nums, dtype=np.int64)), thrs


def print_recall_summary(recalls: np.ndarray, proposal_nums: Any, iou_thrs: Any,
                         row_idxs: Any = None, col_idxs: Any = None, logger: Any = None) -> None:
    """Show recalls [numbers, thresholds] as a table, whole or some rows and columns of it."""
    nums, thrs = _as_arrays(proposal_nums, iou_thrs)
    rows = range(nums.size) if row_idxs is None else row_idxs
    cols = range(thrs.size) if col_idxs is None else col_idxs
    header = ["", *(str(thrs[c]) for c in cols)]
    body = [[str(nums[r]), *(f"{recalls[r, c]:.3f}" for c in cols)] for r in rows]
    say("\n" + text_table(header, body), logger)


def _plot(x: Any, y: Any, label: str) -> None:
    import matplotlib.pyplot as plt

    plt.figure()
    plt.plot(x, y)
    plt.xlabel(label)
    plt.ylabel("Recall")
    plt.ylim(0, 1)
    plt.show()


def plot_num_recall(recalls: Any, proposal_nums: Any) -> None:
    """Plot recalls over numbers of proposals."""
    _plot([0, *np.asarray(proposal_nums).tolist()], [0, *np.asarray(recalls).tolist()],
          "Proposal num")


def plot_iou_recall(recalls: Any, iou_thrs: Any) -> None:
    """Plot recalls over thresholds of overlap."""
    _plot([*np.asarray(iou_thrs).tolist(), 1.0], [*np.asarray(recalls).tolist(), 0.0], "IoU")
