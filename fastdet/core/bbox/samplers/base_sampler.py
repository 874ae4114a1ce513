"""What every sampler has: gts as proposals, then so many positives, then so many negatives."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any

import torch
from torch import Tensor

from .sampling_result import SamplingResult

__all__ = ["BaseSampler", "with_gts"]


def with_gts(assign_result: Any, bboxes: Tensor, gt_bboxes: Tensor, gt_labels: Tensor | None,
             add: bool) -> tuple[Tensor, Tensor]:
    """Put the gts before the candidates, and their own assignment before theirs.

    Args:
        assign_result: of the candidates; changed in place.
        bboxes: [N, 4 or more], candidates.
        gt_bboxes: [G, 4].
        gt_labels: [G].
        add: whether to.

    Returns:
        The candidates' corners and ``[N (+ G)]`` uint8 flags of the gts among them.

    Raises:
        ValueError: gts are to be added and have no labels.
    """
    bboxes = bboxes.reshape(-1, bboxes.shape[-1])[:, :4]
    flags = bboxes.new_zeros((len(bboxes),), dtype=torch.uint8)
    if not add or len(gt_bboxes) == 0:
        return bboxes, flags
    if gt_labels is None:
        raise ValueError("gt_labels must be given when add_gt_as_proposals is true")
    assign_result.add_gt_(gt_labels)
    return (torch.cat([gt_bboxes, bboxes]),
            torch.cat([flags.new_ones(len(gt_bboxes)), flags]))


class BaseSampler(metaclass=ABCMeta):
    """Samples ``num`` candidates of an image.

    Args:
        num: how many.
        pos_fraction: at most this share of them are positives.
        neg_pos_ub: at most so many negatives for each positive; -1 sets no bound.
        add_gt_as_proposals: gts are candidates, too.
        kwargs: not used; what configs pass to every sampler.
    """

    def __init__(self, num: int, pos_fraction: float, neg_pos_ub: float = -1,
                 add_gt_as_proposals: bool = True, **kwargs: Any) -> None:
        self.num = num
        self.pos_fraction = pos_fraction
        self.neg_pos_ub = neg_pos_ub
        self.add_gt_as_proposals = add_gt_as_proposals
        self.pos_sampler: Any = self
        self.neg_sampler: Any = self

    @abstractmethod
    def _sample_pos(self, assign_result: Any, num_expected: int, **kwargs: Any) -> Tensor:
        """Rows of at most ``num_expected`` positives."""

    @abstractmethod
    def _sample_neg(self, assign_result: Any, num_expected: int, **kwargs: Any) -> Tensor:
        """Rows of at most ``num_expected`` negatives."""

    def expected_negatives(self, num_pos: int) -> int:
        """How many negatives go with ``num_pos`` positives."""
        expected = self.num - num_pos
        if self.neg_pos_ub >= 0:
            expected = min(expected, int(self.neg_pos_ub * max(1, num_pos)))
        return expected

    def sample(self, assign_result: Any, bboxes: Tensor, gt_bboxes: Tensor,
               gt_labels: Tensor | None = None, **kwargs: Any) -> SamplingResult:
        """Sample the candidates of one image.

        Args:
            assign_result: of the candidates.
            bboxes: [N, 4 or more].
            gt_bboxes: [G, 4].
            gt_labels: [G].
            kwargs: for the samplers of positives and negatives.
        """
        bboxes, flags = with_gts(assign_result, bboxes, gt_bboxes, gt_labels,
                                 self.add_gt_as_proposals)
        wanted = int(self.num * self.pos_fraction)
        # Rows in ascending order, and none twice: some samplers draw one twice.
        pos = self.pos_sampler._sample_pos(assign_result, wanted, bboxes=bboxes, **kwargs).unique()
        neg = self.neg_sampler._sample_neg(assign_result, self.expected_negatives(pos.numel()),
                                           bboxes=bboxes, **kwargs).unique()
        return SamplingResult(pos, neg, bboxes, gt_bboxes, assign_result, flags)
