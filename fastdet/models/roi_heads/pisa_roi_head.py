"""Prime samples weigh more (PISA, arXiv 1904.04821)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastdet.core.bbox import Samples, ScoreHLRSampler

from ..builder import HEADS
from ..losses import carl_loss, isr_p
from .base_roi_head import Meta
from .standard_roi_head import StandardRoIHead

__all__ = ["PISARoIHead"]


@dataclass(frozen=True)
class PrimeSamples(Samples):
    """Samples whose negatives have weights.

    Attributes:
        label_weights: [B, S], of the negatives; 1 elsewhere.
    """

    label_weights: Tensor


@HEADS.register_module()
class PISARoIHead(StandardRoIHead):
    """PISA: ``train_cfg.isr`` reweighs the positives, ``carl`` adds ``loss_carl``.

    A ``ScoreHLRSampler`` reweighs the negatives. Ranks are per image and gt, so this head does not
    work on the batch at once.
    """

    def samples(self, assigner: Any, sampler: Any, x: Sequence[Tensor], proposal_list: Any,
                gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                gt_bboxes_ignore: list[Tensor] | None) -> Samples:
        """The regions that are trained, with the weights of the negatives if there are any."""
        if not isinstance(sampler, ScoreHLRSampler):
            return super().samples(assigner, sampler, x, proposal_list, gt_bboxes, gt_labels,
                                   gt_bboxes_ignore)
        each = self.sampled(assigner, sampler, x, proposal_list, gt_bboxes, gt_labels,
                            gt_bboxes_ignore)
        padded = Samples.pad([result for result, _ in each])
        weights = padded.boxes.new_ones(padded.valid.shape)
        for row, (result, own) in zip(weights, each):
            if own is not None:
                start = len(result.pos_inds)
                row[start:start + len(own)] = own
        return PrimeSamples(**vars(padded), label_weights=weights)

    def _bbox_forward_train(self, x: Sequence[Tensor], samples: Samples, gt_bboxes: Any,
                            gt_labels: Any, img_metas: list[Meta]) -> dict[str, Any]:
        head, rois = self.bbox_head, samples.rois
        found = self._bbox_forward(x, rois)
        score, pred = found["cls_score"], found["bbox_pred"]
        labels, label_weights, *of_boxes = head.get_targets(samples, gt_bboxes, gt_labels,
                                                            self.train_cfg)
        if isinstance(samples, PrimeSamples):
            neg = (samples.valid & ~samples.pos).flatten()
            label_weights = torch.where(neg, samples.label_weights.flatten(), label_weights)
        targets = (labels, label_weights, *of_boxes)
        total = samples.valid.sum()
        isr, carl = self.train_cfg.get("isr"), self.train_cfg.get("carl")
        if isr is not None:
            targets = isr_p(score, pred, targets, rois, samples.positives(), head.loss_cls,
                            head.bbox_coder, **isr, num_class=head.num_classes)
        losses = head.loss(score, pred, rois, *targets, num_rois=total)
        if carl is not None:
            losses.update(carl_loss(score, labels, pred, targets[2], head.loss_bbox,
                                    **{"avg_factor": total, **carl}, num_class=head.num_classes))
        return {**found, "bbox_targets": targets, "loss_bbox": losses}
