"""Every candidate that was assigned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..builder import BBOX_SAMPLERS
from .base_sampler import BaseSampler
from .sampling_result import SamplingResult

__all__ = ["PseudoSampler"]


@BBOX_SAMPLERS.register_module()
class PseudoSampler(BaseSampler):
    """No sampling: all positives and all negatives, for losses that weigh them themselves."""

    def __init__(self, **kwargs: Any) -> None:
        pass

    def _sample_pos(self, assign_result: Any, num_expected: int, **kwargs: Any) -> Tensor:
        return (assign_result.gt_inds > 0).nonzero()[:, 0]

    def _sample_neg(self, assign_result: Any, num_expected: int, **kwargs: Any) -> Tensor:
        return (assign_result.gt_inds == 0).nonzero()[:, 0]

    def sample(self, assign_result: Any, bboxes: Tensor, gt_bboxes: Tensor, *args: Any,
               **kwargs: Any) -> SamplingResult:
        """All candidates [N, 4] of one image."""
        flags = bboxes.new_zeros(len(bboxes), dtype=torch.uint8)
        return SamplingResult(self._sample_pos(assign_result, -1),
                              self._sample_neg(assign_result, -1), bboxes, gt_bboxes,
                              assign_result, flags)
