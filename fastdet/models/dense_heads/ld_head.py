"""Localization distillation (arXiv 2102.12252): a teacher's distributions of the sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.core.utils import multi_apply, reduce_mean

from ..builder import HEADS, build_loss
from .base_dense_head import Meta
from .gfl_head import GFLHead

__all__ = ["LDHead"]


@HEADS.register_module()
class LDHead(GFLHead):
    """GFL's head that also learns a teacher's distributions.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        loss_ld: config of the loss to the teacher.
        kwargs: of :class:`GFLHead`.
    """

    def __init__(self, num_classes: int, in_channels: int,
                 loss_ld: dict[str, Any] = dict(type="LocalizationDistillationLoss",
                                                loss_weight=0.25, T=10),
                 **kwargs: Any) -> None:
        super().__init__(num_classes, in_channels, **kwargs)
        self.loss_ld = build_loss(loss_ld)

    def forward_train(self, x: Sequence[Tensor], out_teacher: Any,  # type: ignore[override]
                      img_metas: list[Meta], gt_bboxes: list[Tensor],
                      gt_labels: list[Tensor] | None = None,
                      gt_bboxes_ignore: list[Tensor] | None = None, proposal_cfg: Any = None,
                      **kwargs: Any) -> Any:
        """As :meth:`BaseDenseHead.forward_train`; ``out_teacher`` is what a GFLHead returned."""
        outs = self(x)
        losses = self.loss(outs[0], outs[1], gt_bboxes, gt_labels, out_teacher[1], img_metas,
                           gt_bboxes_ignore)
        if proposal_cfg is None:
            return losses
        return losses, self.proposals(outs, img_metas, proposal_cfg)

    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             gt_bboxes: list[Tensor], gt_labels: list[Tensor] | None,
             soft_target: list[Tensor], img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, list[Tensor]]:
        """Losses of each level.

        Args:
            cls_scores: [B, C, H, W] of each level.
            bbox_preds: [B, 4 (n + 1), H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            soft_target: the teacher's ``bbox_preds``.
            img_metas: of each image.
            gt_bboxes_ignore: [g, 4] of each image.

        Returns:
            ``loss_cls``, ``loss_bbox``, ``loss_dfl`` and ``loss_ld``, lists of scalars.
        """
        levels, targets = self.batch_targets(cls_scores, gt_bboxes, gt_labels, img_metas,
                                             gt_bboxes_ignore)
        of_class, of_box, of_side, of_teacher, weights = multi_apply(
            self.loss_single, levels, cls_scores, bbox_preds, *targets.of_levels(levels)[:3],
            self.prior_generator.strides, soft_target, num_total_samples=targets.positives())
        factor = reduce_mean(torch.stack(weights).sum() + 1e-6)
        return {"loss_cls": of_class, "loss_bbox": [loss / factor for loss in of_box],
                "loss_dfl": [loss / factor for loss in of_side], "loss_ld": of_teacher}

    def loss_single(self, anchors: Tensor, cls_score: Tensor, bbox_pred: Tensor,  # type: ignore
                    labels: Tensor, label_weights: Tensor, bbox_targets: Tensor,
                    stride: Sequence[int], soft_targets: Tensor,
                    num_total_samples: Tensor) -> tuple[Tensor, ...]:
        """As :meth:`GFLHead.loss_single`, with the loss to ``soft_targets`` of bbox_pred's shape.
        """
        of_class, of_box, of_side, total = super().loss_single(
            anchors, cls_score, bbox_pred, labels, label_weights, bbox_targets, stride,
            num_total_samples)
        labels = labels.flatten()
        pos = (labels >= 0) & (labels < self.num_classes)
        score = cls_score.permute(0, 2, 3, 1).reshape(-1, self.cls_out_channels)
        weight = self.confidence(score) * pos
        mine, soft = (m.permute(0, 2, 3, 1).reshape(-1, self.reg_max + 1)
                      for m in (bbox_pred, soft_targets))
        of_teacher = self.loss_ld(mine, soft, weight=weight[:, None].expand(-1, 4).reshape(-1),
                                  avg_factor=4.0)
        return of_class, of_box, of_side, of_teacher, total
