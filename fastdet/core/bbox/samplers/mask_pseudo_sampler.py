"""Every mask prediction that was assigned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..builder import BBOX_SAMPLERS
from .mask_sampling_result import MaskSamplingResult
from .pseudo_sampler import PseudoSampler

__all__ = ["MaskPseudoSampler"]


@BBOX_SAMPLERS.register_module()
class MaskPseudoSampler(PseudoSampler):
    """:class:`PseudoSampler` for masks."""

    def sample(self, assign_result: Any, masks: Tensor, gt_masks: Tensor,  # type: ignore[override]
               *args: Any, **kwargs: Any) -> MaskSamplingResult:
        """All predictions [N, h, w] of one image."""
        flags = masks.new_zeros(len(masks), dtype=torch.uint8)
        return MaskSamplingResult(self._sample_pos(assign_result, -1),
                                  self._sample_neg(assign_result, -1), masks, gt_masks,
                                  assign_result, flags)
