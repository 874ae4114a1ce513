"""Which candidates train a head, and with which gts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["SamplingResult"]


class SamplingResult:
    """Sampled positives and negatives of one image.

    Args:
        pos_inds: [p], rows of ``bboxes``.
        neg_inds: [n], rows of ``bboxes``.
        bboxes: [N, 4], the candidates, gts that were added as proposals first.
        gt_bboxes: [G, 4].
        assign_result: of the same candidates.
        gt_flags: [N], 1 for a candidate that is a gt.

    Attributes:
        pos_bboxes: [p, 4].
        neg_bboxes: [n, 4].
        pos_is_gt: [p].
        pos_assigned_gt_inds: [p], rows of ``gt_bboxes``.
        pos_gt_bboxes: [p, 4].
        pos_gt_labels: [p], or ``None`` where the assignment has no labels.
    """

    def __init__(self, pos_inds: Tensor, neg_inds: Tensor, bboxes: Tensor, gt_bboxes: Tensor,
                 assign_result: Any, gt_flags: Tensor) -> None:
        self._keep(pos_inds, neg_inds, len(gt_bboxes), assign_result, gt_flags)
        self.pos_bboxes, self.neg_bboxes = bboxes[pos_inds], bboxes[neg_inds]
        gts = gt_bboxes.view(-1, 4)
        self.pos_gt_bboxes = gts[self.pos_assigned_gt_inds.long()] if len(gts) else gts

    def _keep(self, pos_inds: Tensor, neg_inds: Tensor, num_gts: int, assign_result: Any,
              gt_flags: Tensor) -> None:
        """What does not depend on whether boxes or masks are sampled."""
        if num_gts == 0 and pos_inds.numel():
            raise ValueError(f"{type(self).__name__}: {pos_inds.numel()} positives, but no gts")
        self.num_gts = num_gts
        self.pos_inds, self.neg_inds = pos_inds, neg_inds
        self.pos_assigned_gt_inds = assign_result.gt_inds[pos_inds] - 1
        labels = assign_result.labels
        self.pos_gt_labels = None if labels is None else labels[pos_inds]
        self.pos_is_gt = gt_flags[pos_inds]

    @property
    def bboxes(self) -> Tensor:
        """[p + n, 4]: positives, then negatives."""
        return torch.cat([self.pos_bboxes, self.neg_bboxes])

    def to(self, device: torch.device | str) -> SamplingResult:
        """Move every tensor to ``device``, in place."""
        for key, value in self.__dict__.items():
            if isinstance(value, Tensor):
                setattr(self, key, value.to(device))
        return self

    @property
    def info(self) -> dict[str, Any]:
        """Everything a human would look at."""
        names = ("pos_inds", "neg_inds", "pos_bboxes", "neg_bboxes", "pos_is_gt", "num_gts",
                 "pos_assigned_gt_inds")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        inside = ", ".join(
            f"{k}={f'tensor of {list(v.shape)}' if isinstance(v, Tensor) else v}"
            for k, v in sorted(self.info.items()))
        return f"<{type(self).__name__}({inside})>"

    @classmethod
    def random(cls, rng: Any = None, **kwargs: Any) -> SamplingResult:
        """A result of random boxes, for trials.

        Args:
            rng: a seed or a ``numpy.random.RandomState``.
            kwargs: ``num_gts``, ``num_preds``, ``p_ignore``, ``p_assigned``, ``p_use_label`` of
                ``AssignResult.random``.
        """
        import numpy as np

        from ..assigners.assign_result import AssignResult
        from .random_sampler import RandomSampler

        rng = rng if isinstance(rng, np.random.RandomState) else np.random.RandomState(rng)
        assigned = AssignResult.random(rng=rng, **kwargs)

        def boxes(n: int) -> Tensor:
            corners = torch.from_numpy(rng.rand(n, 2, 2).astype(np.float32))
            return torch.cat([corners.amin(1), corners.amax(1)], dim=1)

        has_labels = assigned.labels is not None
        sampler = RandomSampler(32, 0.5, neg_pos_ub=-1, add_gt_as_proposals=has_labels, rng=rng)
        labels = torch.from_numpy(rng.randint(0, 2, assigned.num_gts)) if has_labels else None
        return sampler.sample(assigned, boxes(assigned.num_preds), boxes(assigned.num_gts), labels)
