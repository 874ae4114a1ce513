"""Distances to top, bottom, left and right in units of the anchor (FSAF, arXiv 1903.00621)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..builder import BBOX_CODERS
from ..transforms import clip_boxes
from .base_bbox_coder import BaseBBoxCoder, check_pairs

__all__ = ["TBLRBBoxCoder", "bboxes2tblr", "tblr2bboxes"]

Normalizer = float | Sequence[float]


def _factor(like: Tensor, normalizer: Normalizer) -> float | Tensor:
    if isinstance(normalizer, (int, float)):
        return normalizer
    factor = like.new_tensor(normalizer)
    if factor.numel() != 4:
        raise ValueError(f"normalizer must be a number or four of them, got {normalizer!r}")
    return factor


def bboxes2tblr(priors: Tensor, gts: Tensor, normalizer: Normalizer = 4.0,
                normalize_by_wh: bool = True) -> Tensor:
    """Distances of the priors' centres to the sides of boxes.

    Args:
        priors: [N, 4], corners.
        gts: [N, 4], corners.
        normalizer: what all distances, or each, are divided by.
        normalize_by_wh: they are in units of the prior's height and width.

    Returns:
        [N, 4]: top, bottom, left, right.
    """
    centre, size = (priors[:, :2] + priors[:, 2:]) / 2, priors[:, 2:] - priors[:, :2]
    low, high = centre - gts[:, :2], gts[:, 2:] - centre
    distances = torch.stack([low[:, 1], high[:, 1], low[:, 0], high[:, 0]], dim=1)
    if normalize_by_wh:
        distances = distances / size[:, [1, 1, 0, 0]]
    return distances / _factor(distances, normalizer)


def tblr2bboxes(priors: Tensor, tblr: Tensor, normalizer: Normalizer = 4.0,
                normalize_by_wh: bool = True, max_shape: Any = None,
                clip_border: bool = True) -> Tensor:
    """The inverse of :func:`bboxes2tblr`, for [..., N, 4], clipped to ``max_shape``."""
    distances = tblr * _factor(tblr, normalizer)
    centre, size = (priors[..., :2] + priors[..., 2:]) / 2, priors[..., 2:] - priors[..., :2]
    if normalize_by_wh:
        distances = distances * size[..., [1, 1, 0, 0]]
    top, bottom, left, right = distances.unbind(-1)
    boxes = torch.stack([centre[..., 0] - left, centre[..., 1] - top,
                         centre[..., 0] + right, centre[..., 1] + bottom], dim=-1)
    return clip_boxes(boxes, max_shape) if clip_border and max_shape is not None else boxes


@BBOX_CODERS.register_module()
class TBLRBBoxCoder(BaseBBoxCoder):
    """Top, bottom, left and right distances in units of the anchor.

    Args:
        normalizer: what all distances, or each, are divided by.
        clip_border: decoded boxes are clipped to the image.
    """

    def __init__(self, normalizer: Normalizer = 4.0, clip_border: bool = True) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.clip_border = clip_border

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Targets [N, 4] of anchors [N, 4] and boxes [N, 4]."""
        check_pairs(self, bboxes, gt_bboxes)
        return bboxes2tblr(bboxes, gt_bboxes, self.normalizer)

    def decode(self, bboxes: Tensor, pred_bboxes: Tensor, max_shape: Any = None) -> Tensor:
        """Boxes [..., N, 4] of anchors and predictions [..., N, 4]."""
        return tblr2bboxes(bboxes, pred_bboxes, self.normalizer, max_shape=max_shape,
                           clip_border=self.clip_border)
