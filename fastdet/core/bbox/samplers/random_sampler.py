"""Candidates at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..builder import BBOX_SAMPLERS
from .base_sampler import BaseSampler

__all__ = ["RandomSampler"]


@BBOX_SAMPLERS.register_module()
class RandomSampler(BaseSampler):
    """Positives and negatives at random."""

    def __init__(self, num: int, pos_fraction: float, neg_pos_ub: float = -1,
                 add_gt_as_proposals: bool = True, **kwargs: Any) -> None:
        super().__init__(num, pos_fraction, neg_pos_ub, add_gt_as_proposals)
        rng = kwargs.get("rng")
        self.rng = rng if isinstance(rng, np.random.RandomState) else np.random.mtrand._rand if (
            rng is None) else np.random.RandomState(rng)

    def random_choice(self, gallery: Any, num: int) -> Any:
        """``num`` different elements of a tensor, array or list, in the order drawn.

        Raises:
            ValueError: there are fewer.
        """
        if len(gallery) < num:
            raise ValueError(f"random_choice: {num} elements were asked of {len(gallery)}")
        rows = gallery if isinstance(gallery, Tensor) else torch.as_tensor(
            np.asarray(gallery, dtype=np.int64))
        # The permutation is drawn on the CPU, so that a seed gives the same one everywhere.
        drawn = rows[torch.randperm(rows.numel())[:num].to(rows.device)]
        return drawn if isinstance(gallery, Tensor) else drawn.numpy()

    def _sample(self, rows: Tensor, num_expected: int) -> Tensor:
        rows = rows.nonzero()[:, 0]
        return rows if rows.numel() <= num_expected else self.random_choice(rows, num_expected)

    def _sample_pos(self, assign_result: Any, num_expected: int, **kwargs: Any) -> Tensor:
        return self._sample(assign_result.gt_inds > 0, num_expected)

    def _sample_neg(self, assign_result: Any, num_expected: int, **kwargs: Any) -> Tensor:
        return self._sample(assign_result.gt_inds == 0, num_expected)
