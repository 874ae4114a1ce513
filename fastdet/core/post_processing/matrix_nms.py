"""Suppression of masks by decaying their scores (SOLOv2, arXiv 2003.10152)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mask_matrix_nms"]


def mask_matrix_nms(masks: Tensor, labels: Tensor, scores: Tensor, filter_thr: float = -1,
                    nms_pre: int = -1, max_num: int = -1, kernel: str = "gaussian",
                    sigma: float = 2.0, mask_area: Tensor | None = None
                    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Decay every score by the overlaps with better masks of the same class.

    Args:
        masks: [N, H, W].
        labels: [N].
        scores: [N].
        filter_thr: drop decayed scores below it, if positive.
        nms_pre: masks that take part; all if not positive.
        max_num: keep the best so many; all if not positive.
        kernel: ``'gaussian'`` or ``'linear'``.
        sigma: of the gaussian.
        mask_area: [N], in pixels; counted by default.

    Returns:
        Scores, labels, masks and rows of those kept, by descending score.

    Raises:
        ValueError: there are not as many labels, masks and scores, or the kernel is unknown.
    """
    if not len(labels) == len(masks) == len(scores):
        raise ValueError(f"mask_matrix_nms: {len(masks)} masks, {len(labels)} labels and "
                         f"{len(scores)} scores")
    if kernel not in ("gaussian", "linear"):
        raise ValueError(f"mask_matrix_nms: kernel must be gaussian or linear, got {kernel!r}")
    if len(labels) == 0:
        return scores, labels, masks, labels.new_zeros(0)
    area = masks.sum((1, 2)).float() if mask_area is None else mask_area
    if len(area) != len(masks):
        raise ValueError(f"mask_matrix_nms: {len(masks)} masks and {len(area)} areas")
    scores, rows = scores.sort(descending=True)
    if nms_pre > 0:
        scores, rows = scores[:nms_pre], rows[:nms_pre]
    masks, labels, area = masks[rows], labels[rows], area[rows]
    flat = masks.flatten(1).float()
    both = flat @ flat.t()
    better = (labels[:, None] == labels).triu(diagonal=1)  # row better than column, same class
    overlap = (both / (area[None] + area[:, None] - both)) * better
    most = overlap.amax(0)[:, None]  # how much each was itself overlapped
    if kernel == "gaussian":
        decay = torch.exp(-sigma * overlap ** 2) / torch.exp(-sigma * most ** 2)
    else:
        decay = (1 - overlap) / (1 - most)
    scores = scores * decay.amin(0)
    if filter_thr > 0:
        keep = scores >= filter_thr
        scores, labels, masks, rows = scores[keep], labels[keep], masks[keep], rows[keep]
    scores, order = scores.sort(descending=True)
    if max_num > 0:
        scores, order = scores[:max_num], order[:max_num]
    return scores, labels[order], masks[order], rows[order]
