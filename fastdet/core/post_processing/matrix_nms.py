"""Matrix NMS of masks (`SOLOv2 <https://arxiv.org/abs/2003.10152>`_)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["mask_matrix_nms"]


def mask_matrix_nms(masks: Tensor, labels: Tensor, scores: Tensor, filter_thr: float = -1,
                    nms_pre: int = -1, max_num: int = -1, kernel: str = "gaussian",
                    sigma: float = 2.0, mask_area: Tensor | None = None
                    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lower the score of each mask by how much better ones of its class cover it.

    Args:
        masks: binary ``(N, H, W)``.
        labels: ``(N,)``, classes.
        scores: ``(N,)``.
        filter_thr: if positive, drop masks whose lowered scores are less.
        nms_pre: if positive, only so many of the best masks take part.
        max_num: if positive, keep at most so many.
        kernel: ``'gaussian'``, exp(-sigma IoU^2), or ``'linear'``, 1 - IoU.
        sigma: of the gaussian.
        mask_area: ``(N,)``, if already known.

    Returns:
        Lowered scores ``(K,)`` in descending order, labels, masks, and their indices.

    Raises:
        ValueError: lengths differ, or the kernel is neither of the two.
    """
    lengths = [len(one) for one in (masks, labels, scores, mask_area) if one is not None]
    if len(set(lengths)) > 1:
        raise ValueError("mask_matrix_nms: masks, labels, scores and mask_area must be of one "
                         f"length, got {lengths}")
    if kernel not in ("gaussian", "linear"):
        raise ValueError(f"mask_matrix_nms: kernel must be 'gaussian' or 'linear', got {kernel!r}")
    scores, index = scores.sort(descending=True)
    if nms_pre > 0:
        scores, index = scores[:nms_pre], index[:nms_pre]
    if len(index):
        flat = masks[index].flatten(1).float()
        area = flat.sum(1) if mask_area is None else mask_area[index]
        inter = flat @ flat.t()
        label = labels[index]
        iou = (inter / (area + area[:, None] - inter)).triu(diagonal=1)
        iou = iou * (label == label[:, None])
        # How much of a mask's own score is left excuses what it does to others.
        own = iou.amax(dim=0)[:, None]
        if kernel == "gaussian":
            decay = torch.exp(-sigma * iou**2) / torch.exp(-sigma * own**2)
        else:
            decay = (1 - iou) / (1 - own)
        scores = scores * decay.amin(dim=0)
    if filter_thr > 0:
        stays = scores >= filter_thr
        scores, index = scores[stays], index[stays]
    scores, order = scores.sort(descending=True)
    index = index[order]
    if max_num > 0:
        scores, index = scores[:max_num], index[:max_num]
    return scores, labels[index], masks[index], index
