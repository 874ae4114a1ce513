"""One sampler of positives and another one of negatives."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..builder import BBOX_SAMPLERS, build_sampler
from .base_sampler import BaseSampler

__all__ = ["CombinedSampler"]


@BBOX_SAMPLERS.register_module()
class CombinedSampler(BaseSampler):
    """Positives by one sampler, negatives by another.

    Args:
        pos_sampler: its config.
        neg_sampler: its config.
        kwargs: of :class:`BaseSampler`, and for both samplers.
    """

    def __init__(self, pos_sampler: dict[str, Any], neg_sampler: dict[str, Any],
                 **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pos_sampler = build_sampler(pos_sampler, **kwargs)
        self.neg_sampler = build_sampler(neg_sampler, **kwargs)

    def _sample_pos(self, assign_result: Any, num_expected: int, **kwargs: Any) -> Tensor:
        return self.pos_sampler._sample_pos(assign_result, num_expected, **kwargs)

    def _sample_neg(self, assign_result: Any, num_expected: int, **kwargs: Any) -> Tensor:
        return self.neg_sampler._sample_neg(assign_result, num_expected, **kwargs)
