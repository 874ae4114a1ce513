"""How many gts proposals find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .bbox_overlaps import bbox_overlaps
from .tables import Logger, table, tell

__all__ = ["eval_recalls", "plot_iou_recall", "plot_num_recall", "print_recall_summary"]


def _covered(ious: np.ndarray) -> np.ndarray:
    """The overlap that each gt [G] is found with, by a proposal of its own.

    Args:
        ious: [G, K]; the pair of the highest overlap is taken first, then that of what is left.
    """
    found = np.zeros(len(ious))
    ious = ious.copy()
    for i in range(len(ious) if ious.size else 0):
        row, column = np.unravel_index(ious.argmax(), ious.shape)
        found[i] = ious[row, column]
        ious[row, :] = -1
        ious[:, column] = -1
    return found


def eval_recalls(gts: Sequence[Any], proposals: Sequence[np.ndarray], proposal_nums: Any = None,
                 iou_thrs: Any = 0.5, logger: Logger = None,
                 use_legacy_coordinate: bool = False) -> np.ndarray:
    """The share of all gts that the best proposals find.

    Args:
        gts: [G, 4] of each image, or ``None``.
        proposals: [n, 4] of each image, or [n, 5] with scores.
        proposal_nums: one or several numbers of proposals; the best so many are taken.
        iou_thrs: one or several thresholds of the overlap; ``None`` is 0.5.
        logger: where the table goes to, see :data:`Logger`.
        use_legacy_coordinate: boxes hold their last pixel, too.

    Returns:
        [numbers, thresholds]; NaN where no image has a gt.

    Raises:
        ValueError: there are other images in the two.
    """
    if len(gts) != len(proposals):
        raise ValueError(f"eval_recalls: gts are of {len(gts)} images, proposals of "
                         f"{len(proposals)}")
    nums = [max((len(p) for p in proposals), default=0)] if proposal_nums is None else (
        np.atleast_1d(proposal_nums).tolist())
    thresholds = np.atleast_1d(0.5 if iou_thrs is None else iou_thrs)
    overlaps = []
    for gt, found in zip(gts, proposals):
        if found.ndim == 2 and found.shape[1] == 5:
            found = found[np.argsort(found[:, 4])[::-1]]
        mine = np.zeros((0, 4)) if gt is None else gt
        overlaps.append(bbox_overlaps(mine, found[:nums[-1], :4],
                                      use_legacy_coordinate=use_legacy_coordinate))
    total = sum(len(ious) for ious in overlaps)
    recalls = np.zeros((len(nums), len(thresholds)))
    for i, num in enumerate(nums):
        best = np.concatenate([_covered(ious[:, :num]) for ious in overlaps])
        recalls[i] = [(best >= thr).sum() / total if total else np.nan for thr in thresholds]
    print_recall_summary(recalls, nums, thresholds, logger=logger)
    return recalls


def print_recall_summary(recalls: np.ndarray, proposal_nums: Any, iou_thrs: Any,
                         row_idxs: Any = None, col_idxs: Any = None,
                         logger: Logger = None) -> None:
    """Recalls as a table.

    Args:
        recalls: [numbers, thresholds].
        proposal_nums: of the rows.
        iou_thrs: of the columns.
        row_idxs: the rows to show; all by default.
        col_idxs: the columns to show; all by default.
        logger: where the table goes to, see :data:`Logger`.
    """
    nums, thrs = np.atleast_1d(proposal_nums), np.atleast_1d(iou_thrs)
    rows = range(len(nums)) if row_idxs is None else row_idxs
    columns = range(len(thrs)) if col_idxs is None else col_idxs
    tell("\n" + table([["", *(thrs[j] for j in columns)],
                       *([nums[i], *(f"{recalls[i, j]:.3f}" for j in columns)] for i in rows)]),
         logger)


def _plot(x: Any, y: Any, label: str, least: float) -> None:
    import matplotlib.pyplot as plt

    figure = plt.figure()
    plt.plot(np.asarray(x), np.asarray(y))
    plt.xlabel(label)
    plt.ylabel("Recall")
    plt.axis((least, float(np.max(x)), 0, 1))
    figure.show()


def plot_num_recall(recalls: Any, proposal_nums: Any) -> None:
    """Recalls over numbers of proposals, with matplotlib."""
    _plot([0, *np.asarray(proposal_nums).tolist()], [0, *np.asarray(recalls).tolist()],
          "Proposal num", 0)


def plot_iou_recall(recalls: Any, iou_thrs: Any) -> None:
    """Recalls over thresholds of the overlap, with matplotlib."""
    _plot([*np.asarray(iou_thrs).tolist(), 1.0], [*np.asarray(recalls).tolist(), 0.0], "IoU",
          float(np.min(iou_thrs)))
