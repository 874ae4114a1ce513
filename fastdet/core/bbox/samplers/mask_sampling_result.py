"""Which mask predictions train a head, and with which gts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .sampling_result import SamplingResult

__all__ = ["MaskSamplingResult"]


class MaskSamplingResult(SamplingResult):
    """Sampled masks of one image.

    Args:
        pos_inds: [p], rows of ``masks``.
        neg_inds: [n], rows of ``masks``.
        masks: [N, h, w], predictions.
        gt_masks: [G, H, W].
        assign_result: of the predictions.
        gt_flags: [N], 1 for a prediction that is a gt.
    """

    def __init__(self, pos_inds: Tensor, neg_inds: Tensor, masks: Tensor, gt_masks: Tensor,
                 assign_result: Any, gt_flags: Tensor) -> None:
        self.pos_inds = pos_inds
        self.neg_inds = neg_inds
        self.pos_masks = masks[pos_inds]
        self.neg_masks = masks[neg_inds]
        self.pos_is_gt = gt_flags[pos_inds]
        self.num_gts = gt_masks.shape[0]
        self.pos_assigned_gt_inds = assign_result.gt_inds[pos_inds] - 1
        if gt_masks.numel() == 0:
            if pos_inds.numel():
                raise ValueError(f"MaskSamplingResult: {pos_inds.numel()} positives, but no gts")
            self.pos_gt_masks = torch.empty_like(gt_masks)
        else:
            self.pos_gt_masks = gt_masks[self.pos_assigned_gt_inds]
        labels = assign_result.labels
        self.pos_gt_labels = None if labels is None else labels[pos_inds]

    @property
    def masks(self) -> Tensor:
        """[p + n, h, w]: positives, then negatives."""
        return torch.cat([self.pos_masks, self.neg_masks])

    @property
    def info(self) -> dict[str, Any]:
        """Everything a human would look at."""
        names = ("pos_inds", "neg_inds", "pos_masks", "neg_masks", "pos_is_gt", "num_gts",
                 "pos_assigned_gt_inds")
        return {name: getattr(self, name) for name in names}
