"""The hardest candidates (OHEM, arXiv 1604.03540)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..builder import BBOX_SAMPLERS
from ..transforms import bbox2roi
from .base_sampler import BaseSampler

__all__ = ["OHEMSampler"]


@BBOX_SAMPLERS.register_module()
class OHEMSampler(BaseSampler):
    """Positives and negatives of the largest classification loss.

    Args:
        num: how many candidates.
        pos_fraction: at most this share of them are positives.
        context: the RoI head that scores them.
        neg_pos_ub: at most so many negatives for each positive.
        add_gt_as_proposals: gts are candidates, too.
        loss_key: which of the head's losses counts.
        kwargs: not used.
    """

    def __init__(self, num: int, pos_fraction: float, context: Any, neg_pos_ub: float = -1,
                 add_gt_as_proposals: bool = True, loss_key: str = "loss_cls",
                 **kwargs: Any) -> None:
        super().__init__(num, pos_fraction, neg_pos_ub, add_gt_as_proposals)
        self.context = context
        self.loss_key = loss_key
        self.stage = (context.current_stage,) if hasattr(context, "num_stages") else ()
        self.bbox_head = context.bbox_head[self.stage[0]] if self.stage else context.bbox_head

    def hard_mining(self, inds: Tensor, num_expected: int, bboxes: Tensor, labels: Tensor,
                    feats: Any) -> Tensor:
        """The ``num_expected`` of ``inds`` with the largest loss.

        Args:
            inds: [n], rows.
            num_expected: how many.
            bboxes: [n, 4], theirs.
            labels: [n], theirs.
            feats: feature maps of the image.
        """
        with torch.no_grad():
            rois = bbox2roi([bboxes])
            scores = self.context._bbox_forward(*self.stage, feats, rois)["cls_score"]
            loss = self.bbox_head.loss(
                cls_score=scores, bbox_pred=None, rois=rois, labels=labels,
                label_weights=scores.new_ones(scores.size(0)), bbox_targets=None,
                bbox_weights=None, reduction_override="none")[self.loss_key]
            return inds[loss.topk(num_expected).indices]

    def _sample_pos(self, assign_result: Any, num_expected: int, bboxes: Any = None,
                    feats: Any = None, **kwargs: Any) -> Tensor:
        rows = (assign_result.gt_inds > 0).nonzero()[:, 0]
        if rows.numel() <= num_expected:
            return rows
        return self.hard_mining(rows, num_expected, bboxes[rows], assign_result.labels[rows],
                                feats)

    def _sample_neg(self, assign_result: Any, num_expected: int, bboxes: Any = None,
                    feats: Any = None, **kwargs: Any) -> Tensor:
        rows = (assign_result.gt_inds == 0).nonzero()[:, 0]
        if len(rows) <= num_expected:
            return rows
        background = assign_result.labels.new_full((len(rows),), self.bbox_head.num_classes)
        return self.hard_mining(rows, num_expected, bboxes[rows], background, feats)
