"""R-CNN's boxes (arXiv 1311.2524, appendix C): offsets of centres, logarithms of sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..builder import BBOX_CODERS
from ..transforms import clip_boxes
from .base_bbox_coder import BaseBBoxCoder, check_pairs

__all__ = ["DeltaXYWHBBoxCoder", "bbox2delta", "delta2bbox"]

ZEROS, ONES = (0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 1.0, 1.0)


def bbox2delta(proposals: Tensor, gt: Tensor, means: Sequence[float] = ZEROS,
               stds: Sequence[float] = ONES, extra: float = 0.0) -> Tensor:
    """Normalised deltas that lead from proposals to boxes.

    Args:
        proposals: [..., 4], corners.
        gt: [..., 4], corners.
        means: subtracted.
        stds: divided by.
        extra: added to widths and heights; the legacy form counts a pixel more.

    Returns:
        [..., 4] float32, as in MMDetection: dx, dy, dw, dh.

    Raises:
        ValueError: the shapes differ.
    """
    if proposals.shape != gt.shape:
        raise ValueError(f"bbox2delta: proposals and gt must have one shape, got "
                         f"{list(proposals.shape)} and {list(gt.shape)}")
    proposals, gt = proposals.float(), gt.float()
    centre, size = (proposals[..., :2] + proposals[..., 2:]) * 0.5, (
        proposals[..., 2:] - proposals[..., :2] + extra)
    to, wanted = (gt[..., :2] + gt[..., 2:]) * 0.5, gt[..., 2:] - gt[..., :2] + extra
    deltas = torch.cat([(to - centre) / size, torch.log(wanted / size)], dim=-1)
    return (deltas - deltas.new_tensor(means)) / deltas.new_tensor(stds)


def delta2bbox(rois: Tensor, deltas: Tensor, means: Sequence[float] = ZEROS,
               stds: Sequence[float] = ONES, max_shape: Any = None,
               wh_ratio_clip: float = 16 / 1000, clip_border: bool = True,
               add_ctr_clamp: bool = False, ctr_clamp: float = 32) -> Tensor:
    """Boxes of RoIs and normalised deltas.

    Args:
        rois: [..., N, 4], corners.
        deltas: [..., N, 4 C], of each class dx, dy, dw, dh.
        means: of the deltas.
        stds: of the deltas.
        max_shape: (height, width, ...) of the image or of each image; see `clip_boxes`.
        wh_ratio_clip: sizes change by no more than this factor, nor by less than its inverse.
        clip_border: clip to ``max_shape``.
        add_ctr_clamp: centres move by no more than ``ctr_clamp`` pixels, and sizes are bounded
            from above alone (YOLOF).
        ctr_clamp: see ``add_ctr_clamp``.

    Returns:
        [..., N, 4 C], corners.
    """
    if deltas.size(-2) == 0:
        return deltas
    shape = deltas.shape
    deltas = deltas.reshape(*shape[:-1], -1, 4)
    deltas = deltas * deltas.new_tensor(stds) + deltas.new_tensor(means)
    rois = rois.unsqueeze(-2)
    size = rois[..., 2:4] - rois[..., :2]
    shift, log_scale = size * deltas[..., :2], deltas[..., 2:]
    bound = abs(math.log(wh_ratio_clip))
    if add_ctr_clamp:
        shift = shift.clamp(min=-ctr_clamp, max=ctr_clamp)
        log_scale = log_scale.clamp(max=bound)
    else:
        log_scale = log_scale.clamp(min=-bound, max=bound)
    centre = (rois[..., :2] + rois[..., 2:4]) * 0.5 + shift
    half = size * log_scale.exp() * 0.5
    boxes = torch.cat([centre - half, centre + half], dim=-1)
    if clip_border and max_shape is not None:
        boxes = clip_boxes(boxes.flatten(-3, -2), max_shape)
    return boxes.reshape(shape)


@BBOX_CODERS.register_module()
class DeltaXYWHBBoxCoder(BaseBBoxCoder):
    """Offsets of the centre in units of the prior's size, and logarithms of the size's ratio.

    Args:
        target_means: subtracted from the targets.
        target_stds: what they are divided by.
        clip_border: decoded boxes are clipped to the image.
        add_ctr_clamp: centres move by no more than ``ctr_clamp`` pixels (YOLOF).
        ctr_clamp: see ``add_ctr_clamp``.
    """

    def __init__(self, target_means: Sequence[float] = ZEROS, target_stds: Sequence[float] = ONES,
                 clip_border: bool = True, add_ctr_clamp: bool = False,
                 ctr_clamp: float = 32) -> None:
        super().__init__()
        self.means = target_means
        self.stds = target_stds
        self.clip_border = clip_border
        self.add_ctr_clamp = add_ctr_clamp
        self.ctr_clamp = ctr_clamp

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Targets [N, 4] of priors [N, 4] and boxes [N, 4]."""
        check_pairs(self, bboxes, gt_bboxes)
        return bbox2delta(bboxes, gt_bboxes, self.means, self.stds)

    def decode(self, bboxes: Tensor, pred_bboxes: Tensor, max_shape: Any = None,
               wh_ratio_clip: float = 16 / 1000) -> Tensor:
        """Boxes of priors and predictions.

        Args:
            bboxes: [N, 4] or [B, N, 4].
            pred_bboxes: [N, 4 C] or [B, N, 4 C].
            max_shape: (height, width, ...) of the image or of each image.
            wh_ratio_clip: see :func:`delta2bbox`.

        Raises:
            ValueError: there is not one prediction for each prior.
        """
        if bboxes.shape[:-1] != pred_bboxes.shape[:-1]:
            raise ValueError("DeltaXYWHBBoxCoder: expected one prediction for each prior, got "
                             f"{list(bboxes.shape)} and {list(pred_bboxes.shape)}")
        return delta2bbox(bboxes, pred_bboxes, self.means, self.stds, max_shape, wh_ratio_clip,
                          self.clip_border, self.add_ctr_clamp, self.ctr_clamp)
