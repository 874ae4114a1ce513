"""Negatives by hierarchical local rank of their scores (PISA, arXiv 1904.04821)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdet.ops import nms_match

from ..builder import BBOX_SAMPLERS
from ..transforms import bbox2roi
from .base_sampler import BaseSampler, with_gts
from .sampling_result import SamplingResult

__all__ = ["ScoreHLRSampler"]


@BBOX_SAMPLERS.register_module()
class ScoreHLRSampler(BaseSampler):
    """Random positives; negatives of high score, reweighed by their rank among overlapping ones.

    Args:
        num: how many candidates.
        pos_fraction: at most this share of them are positives.
        context: the RoI head that scores them.
        neg_pos_ub: at most so many negatives for each positive.
        add_gt_as_proposals: gts are candidates, too.
        k: exponent of the weights.
        bias: what every weight is shifted by.
        score_thr: negatives below it are drawn at random.
        iou_thr: negatives above it are of one group.
        kwargs: not used.
    """

    def __init__(self, num: int, pos_fraction: float, context: Any, neg_pos_ub: float = -1,
                 add_gt_as_proposals: bool = True, k: float = 0.5, bias: float = 0,
                 score_thr: float = 0.05, iou_thr: float = 0.5, **kwargs: Any) -> None:
        super().__init__(num, pos_fraction, neg_pos_ub, add_gt_as_proposals)
        self.k = k
        self.bias = bias
        self.score_thr = score_thr
        self.iou_thr = iou_thr
        self.context = context
        if not hasattr(context, "num_stages"):
            self.bbox_roi_extractor = context.bbox_roi_extractor
            self.bbox_head = context.bbox_head
            self.with_shared_head = context.with_shared_head
            if self.with_shared_head:
                self.shared_head = context.shared_head
        else:
            stage = context.current_stage
            self.bbox_roi_extractor = context.bbox_roi_extractor[stage]
            self.bbox_head = context.bbox_head[stage]
            self.with_shared_head = False

    @staticmethod
    def random_choice(gallery: Any, num: int) -> Any:
        """``num`` different elements of a tensor or list."""
        rows = gallery if isinstance(gallery, Tensor) else torch.as_tensor(gallery)
        if len(rows) < num:
            raise ValueError(f"random_choice: {num} elements were asked of {len(rows)}")
        drawn = rows[torch.randperm(rows.numel())[:num].to(rows.device)]
        return drawn if isinstance(gallery, Tensor) else drawn.numpy()

    def _sample_pos(self, assign_result: Any, num_expected: int, **kwargs: Any) -> Tensor:
        rows = (assign_result.gt_inds > 0).nonzero().flatten()
        return rows if rows.numel() <= num_expected else self.random_choice(rows, num_expected)

    def _importance(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """Place among the overlapping boxes first, score second; larger is more important."""
        groups = nms_match(torch.cat([boxes, scores[:, None]], dim=1), self.iou_thr)
        importance = torch.zeros_like(scores)
        for group in groups:
            rank = torch.arange(len(group), device=scores.device).to(scores.dtype)
            importance[group] = len(scores) - rank + scores[group]
        return importance

    def _sample_neg(self, assign_result: Any, num_expected: int,  # type: ignore[override]
                    bboxes: Any = None, feats: Any = None, img_meta: Any = None,
                    **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        rows = (assign_result.gt_inds == 0).nonzero().flatten()
        total = rows.numel()
        if total == 0:
            return rows, None
        num_expected = min(total, num_expected)
        with torch.no_grad():
            rois = bbox2roi([bboxes[rows]])
            result = self.context._bbox_forward(feats, rois)
            cls_score, bbox_pred = result["cls_score"], result["bbox_pred"]
            background = rows.new_full((total,), self.bbox_head.num_classes)
            loss = self.bbox_head.loss(
                cls_score=cls_score, bbox_pred=None, rois=None, labels=background,
                label_weights=cls_score.new_ones(total), bbox_targets=None, bbox_weights=None,
                reduction_override="none")["loss_cls"]
            score, kind = F.softmax(cls_score, dim=-1)[:, :-1].max(-1)
            valid = (score > self.score_thr).nonzero().view(-1)
            invalid = (score <= self.score_thr).nonzero().view(-1)
            if valid.numel() == 0:
                drawn = torch.randperm(total)[:num_expected].to(rows.device)
                return rows[drawn], cls_score.new_ones(num_expected)
            deltas = bbox_pred[valid].view(len(valid), -1, 4)
            own = deltas[torch.arange(len(valid)), kind[valid]] if deltas.size(1) > 1 else (
                deltas[:, 0])
            boxes = self.bbox_head.bbox_coder.decode(rois[valid][:, 1:], own)
            order = self._importance(boxes, score[valid]).sort(descending=True).indices
            best = order[:num_expected]
            chosen = valid[best]
            others = num_expected - len(best)
            if others > 0:
                drawn = torch.randperm(len(invalid))[:others].to(rows.device)
                chosen = torch.cat([chosen, invalid[drawn]])
            bound = max(num_expected, len(valid))
            weights = (bound - torch.arange(len(best), device=rows.device).float()) / bound
            weights = torch.cat([weights, weights.min().expand(others)]).to(cls_score.dtype)
            weights = (self.bias + (1 - self.bias) * weights).pow(self.k)
            picked = loss[chosen]
            return rows[chosen], weights * (picked.sum() / (picked * weights).sum())

    def sample(self, assign_result: Any, bboxes: Tensor, gt_bboxes: Tensor,  # type: ignore
               gt_labels: Tensor | None = None, img_meta: Any = None,
               **kwargs: Any) -> tuple[SamplingResult, Tensor | None]:
        """The sampling result, and the weights of its negatives."""
        bboxes, flags = with_gts(assign_result, bboxes, gt_bboxes, gt_labels,
                                 self.add_gt_as_proposals)
        wanted = int(self.num * self.pos_fraction)
        pos = self.pos_sampler._sample_pos(assign_result, wanted, bboxes=bboxes, **kwargs)
        neg, weights = self.neg_sampler._sample_neg(
            assign_result, self.expected_negatives(pos.numel()), bboxes=bboxes, img_meta=img_meta,
            **kwargs)
        return SamplingResult(pos, neg, bboxes, gt_bboxes, assign_result, flags), weights
