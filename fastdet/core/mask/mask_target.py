"""The targets of a mask head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.modules.utils import _pair

from .structures import BaseInstanceMasks

__all__ = ["mask_target", "mask_target_single"]


def mask_target(pos_proposals_list: Sequence[Tensor], pos_assigned_gt_inds_list: Sequence[Tensor],
                gt_masks_list: Sequence[BaseInstanceMasks], cfg: Any) -> Tensor | list[Tensor]:
    """Targets of the positives of a batch.

    Args:
        pos_proposals_list: [p, 4] of each image.
        pos_assigned_gt_inds_list: [p] of each image, rows of its masks.
        gt_masks_list: of each image.
        cfg: ``mask_size``, and ``soft_mask_target`` to leave targets unthresholded.

    Returns:
        [P, h, w] of all images in order (an empty list where there are no images).
    """
    targets = [mask_target_single(*each, cfg) for each in zip(
        pos_proposals_list, pos_assigned_gt_inds_list, gt_masks_list)]
    return torch.cat(targets) if targets else targets


def mask_target_single(pos_proposals: Tensor, pos_assigned_gt_inds: Tensor,
                       gt_masks: BaseInstanceMasks, cfg: Any) -> Tensor:
    """Targets [p, h, w] of the positives of one image."""
    size = _pair(cfg.mask_size)
    if pos_proposals.size(0) == 0:
        return pos_proposals.new_zeros((0, *size))
    boxes = pos_proposals.cpu().numpy().copy()
    boxes[:, [0, 2]] = np.clip(boxes[:, [0, 2]], 0, gt_masks.width)
    boxes[:, [1, 3]] = np.clip(boxes[:, [1, 3]], 0, gt_masks.height)
    cropped = gt_masks.crop_and_resize(
        boxes, size, device=pos_proposals.device, inds=pos_assigned_gt_inds.cpu().numpy(),
        binarize=not cfg.get("soft_mask_target", False))
    return torch.from_numpy(cropped.to_ndarray()).float().to(pos_proposals.device)
