"""As many positives of each gt (Libra R-CNN, arXiv 1904.02701)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..builder import BBOX_SAMPLERS
from .random_sampler import RandomSampler

__all__ = ["InstanceBalancedPosSampler"]


@BBOX_SAMPLERS.register_module()
class InstanceBalancedPosSampler(RandomSampler):
    """Positives spread evenly over the gts; what is then missing comes from all of them."""

    def _sample_pos(self, assign_result: Any, num_expected: int, **kwargs: Any) -> Tensor:
        pos = (assign_result.gt_inds > 0).nonzero()[:, 0]
        if pos.numel() <= num_expected:
            return pos
        gts = assign_result.gt_inds[pos].unique()
        each = int(round(num_expected / float(len(gts))) + 1)
        chosen = []
        for gt in gts.tolist():
            rows = (assign_result.gt_inds == gt).nonzero()[:, 0]
            chosen.append(self.random_choice(rows, each) if len(rows) > each else rows)
        sampled = torch.cat(chosen)
        missing = num_expected - len(sampled)
        if missing > 0:
            rest = pos[~torch.isin(pos, sampled)]
            if len(rest) > missing:
                rest = self.random_choice(rest, missing)
            return torch.cat([sampled, rest])
        return self.random_choice(sampled, num_expected) if missing < 0 else sampled
