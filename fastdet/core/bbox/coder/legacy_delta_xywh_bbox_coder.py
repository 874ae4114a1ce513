"""The boxes of MMDetection 1.x, whose last pixel counts: width is x2 - x1 + 1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..builder import BBOX_CODERS
from ..transforms import clip_boxes
from .base_bbox_coder import BaseBBoxCoder, check_pairs
from .delta_xywh_bbox_coder import ONES, ZEROS, bbox2delta

__all__ = ["LegacyDeltaXYWHBBoxCoder", "legacy_bbox2delta", "legacy_delta2bbox"]


def legacy_bbox2delta(proposals: Tensor, gt: Tensor, means: Sequence[float] = ZEROS,
                      stds: Sequence[float] = ONES) -> Tensor:
    """:func:`bbox2delta` with sizes one pixel larger."""
    return bbox2delta(proposals, gt, means, stds, extra=1.0)


def legacy_delta2bbox(rois: Tensor, deltas: Tensor, means: Sequence[float] = ZEROS,
                      stds: Sequence[float] = ONES, max_shape: Any = None,
                      wh_ratio_clip: float = 16 / 1000) -> Tensor:
    """Boxes [..., N, 4 C] of RoIs and deltas, clipped to the last pixel of ``max_shape``."""
    shape = deltas.shape
    deltas = deltas.reshape(*shape[:-1], -1, 4)
    deltas = deltas * deltas.new_tensor(stds) + deltas.new_tensor(means)
    bound = abs(math.log(wh_ratio_clip))
    rois = rois.unsqueeze(-2)
    size = rois[..., 2:] - rois[..., :2] + 1.0
    centre = (rois[..., :2] + rois[..., 2:]) * 0.5 + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(min=-bound, max=bound).exp() * 0.5
    # Half a pixel inwards would be true to 1.x; MMDetection leaves it out, since models of 1.x do
    # better without it.
    boxes = torch.cat([centre - half, centre + half], dim=-1)
    if max_shape is not None:
        last = np.asarray(max_shape)[..., :2] - 1
        boxes = clip_boxes(boxes.flatten(-3, -2), last if last.ndim > 1 else last.tolist())
    return boxes.reshape(shape)


@BBOX_CODERS.register_module()
class LegacyDeltaXYWHBBoxCoder(BaseBBoxCoder):
    """:class:`DeltaXYWHBBoxCoder` of MMDetection 1.x.

    Args:
        target_means: subtracted from the targets.
        target_stds: what they are divided by.
    """

    def __init__(self, target_means: Sequence[float] = ZEROS,
                 target_stds: Sequence[float] = ONES) -> None:
        super().__init__()
        self.means = target_means
        self.stds = target_stds

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Targets [N, 4] of priors [N, 4] and boxes [N, 4]."""
        check_pairs(self, bboxes, gt_bboxes)
        return legacy_bbox2delta(bboxes, gt_bboxes, self.means, self.stds)

    def decode(self, bboxes: Tensor, pred_bboxes: Tensor, max_shape: Any = None,
               wh_ratio_clip: float = 16 / 1000) -> Tensor:
        """Boxes [..., N, 4 C] of priors [..., N, 4] and predictions [..., N, 4 C]."""
        if bboxes.shape[:-1] != pred_bboxes.shape[:-1]:
            raise ValueError("LegacyDeltaXYWHBBoxCoder: expected one prediction for each prior, "
                             f"got {list(bboxes.shape)} and {list(pred_bboxes.shape)}")
        return legacy_delta2bbox(bboxes, pred_bboxes, self.means, self.stds, max_shape,
                                 wh_ratio_clip)
