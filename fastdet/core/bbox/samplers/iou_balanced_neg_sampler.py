"""Negatives spread evenly over their IoU (Libra R-CNN, arXiv 1904.02701)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..builder import BBOX_SAMPLERS
from .random_sampler import RandomSampler

__all__ = ["IoUBalancedNegSampler"]


@BBOX_SAMPLERS.register_module()
class IoUBalancedNegSampler(RandomSampler):
    """Negatives from equal intervals of the IoU, and a share of those below a floor.

    Args:
        num: how many candidates.
        pos_fraction: at most this share of them are positives.
        floor_thr: the IoU below which a negative is easy; 0 where easy is one of no IoU; -1 for
            no such class in the first image that is sampled, and 0 from the second on.
        floor_fraction: the share of easy negatives.
        num_bins: intervals above the floor.
        kwargs: of ``BaseSampler``.

    Raises:
        ValueError: a threshold is out of range.
    """

    def __init__(self, num: int, pos_fraction: float, floor_thr: float = -1,
                 floor_fraction: float = 0, num_bins: int = 3, **kwargs: Any) -> None:
        super().__init__(num, pos_fraction, **kwargs)
        if not (floor_thr >= 0 or floor_thr == -1) or not 0 <= floor_fraction <= 1 or num_bins < 1:
            raise ValueError(
                "IoUBalancedNegSampler: floor_thr must be -1 or at least 0, floor_fraction in "
                f"[0, 1] and num_bins positive, got {floor_thr}, {floor_fraction}, {num_bins}")
        self.floor_thr = floor_thr
        self.floor_fraction = floor_fraction
        self.num_bins = num_bins

    def _choose(self, rows: np.ndarray, num: int) -> np.ndarray:
        return self.random_choice(rows, num) if len(rows) > num else rows

    def _fill_up(self, sampled: np.ndarray, full: np.ndarray, num: int) -> np.ndarray:
        """``sampled``, and from what else is in ``full`` as much as is missing."""
        if len(sampled) >= num:
            return sampled
        rest = np.setdiff1d(full, sampled)
        return np.concatenate([sampled, self._choose(rest, num - len(sampled))])

    def sample_via_interval(self, max_overlaps: np.ndarray, full_set: Any,
                            num_expected: int) -> np.ndarray:
        """``num_expected`` of ``full_set``, as many from each interval of the IoU.

        Args:
            max_overlaps: [N], each candidate's largest IoU.
            full_set: rows to choose from.
            num_expected: how many.
        """
        full = np.sort(np.fromiter(full_set, dtype=np.int64))
        floor = max(self.floor_thr, 0)
        width = (max_overlaps.max() - floor) / self.num_bins
        bins = []
        for i in range(self.num_bins):
            low, high = floor + i * width, floor + (i + 1) * width
            inside = (max_overlaps[full] >= low) & (max_overlaps[full] < high)
            bins.append(self._choose(full[inside], int(num_expected / self.num_bins)))
        return self._fill_up(np.concatenate(bins), full, num_expected)

    def _sample_neg(self, assign_result: Any, num_expected: int, **kwargs: Any) -> Tensor:
        negatives = (assign_result.gt_inds == 0).nonzero()[:, 0]
        if negatives.numel() <= num_expected:
            return negatives
        overlaps = assign_result.max_overlaps.cpu().numpy()
        rows = negatives.cpu().numpy()
        mine = overlaps[rows]
        easy = np.zeros(len(rows), dtype=bool)
        hard = mine > self.floor_thr
        if self.floor_thr > 0:
            easy, hard = (mine >= 0) & (mine < self.floor_thr), mine >= self.floor_thr
        elif self.floor_thr == 0:
            easy = mine == 0
        else:  # the first image alone is without a floor, as in MMDetection
            self.floor_thr = 0
        wanted = int(num_expected * (1 - self.floor_fraction))
        hard_rows = rows[hard]
        if len(hard_rows) > wanted:
            hard_rows = (self.sample_via_interval(overlaps, hard_rows, wanted)
                         if self.num_bins >= 2 else self.random_choice(hard_rows, wanted))
        easy_rows = self._choose(rows[easy], num_expected - len(hard_rows))
        sampled = self._fill_up(np.concatenate([easy_rows, hard_rows]), rows, num_expected)
        return torch.from_numpy(sampled).long().to(assign_result.gt_inds.device)
