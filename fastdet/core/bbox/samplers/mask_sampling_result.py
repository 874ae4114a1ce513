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
        self._keep(pos_inds, neg_inds, len(gt_masks), assign_result, gt_flags)
        self.pos_masks, self.neg_masks = masks[pos_inds], masks[neg_inds]
        self.pos_gt_masks = gt_masks[self.pos_assigned_gt_inds] if len(gt_masks) else gt_masks

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
