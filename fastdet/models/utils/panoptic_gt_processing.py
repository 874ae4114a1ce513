"""Ground truth of panoptic segmentation as one list of labelled masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["preprocess_panoptic_gt"]


def preprocess_panoptic_gt(gt_labels: Tensor, gt_masks: Any, gt_semantic_seg: Tensor | None,
                           num_things: int, num_stuff: int, img_metas: dict[str, Any]
                           ) -> tuple[Tensor, Tensor]:
    """Labels and masks of an image's things, and of its stuff if there is a semantic map.

    Args:
        gt_labels: ``(num_gts,)``, classes of the things.
        gt_masks: their masks ``(num_gts, h, w)``; MMDetection's ``BitmapMasks`` or what has its
            methods ``pad((H, W), pad_val=)`` and ``to_tensor(dtype=, device=)``.
        gt_semantic_seg: ``(1, H, W)``, a class per pixel: below ``num_things`` a thing, then
            stuff up to ``num_things + num_stuff``, 255 nothing. ``None`` for instance
            segmentation.
        num_things: number of classes of things.
        num_stuff: number of classes of stuff.
        img_metas: has ``pad_shape``, which begins with the ``(H, W)`` of the padded image.

    Returns:
        ``(n,)`` classes and ``(n, H, W)`` int64 masks of zeros and ones: the things in their
        order, then one mask per class of stuff in the image, by class.
    """
    masks = gt_masks.pad(img_metas["pad_shape"][:2], pad_val=0).to_tensor(
        dtype=torch.bool, device=gt_labels.device)
    if gt_semantic_seg is None:
        return gt_labels, masks.long()
    seg = gt_semantic_seg.squeeze(0)
    present = seg.unique()
    stuff = present[(present >= num_things) & (present < num_things + num_stuff)]
    labels = torch.cat([gt_labels, stuff])
    return labels, torch.cat([masks, seg == stuff[:, None, None]]).long()
