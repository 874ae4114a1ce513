"""Label assignment distillation (arXiv 2108.10520): a teacher says who is positive."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..builder import HEADS
from .base_dense_head import Meta
from .paa_head import PAAHead, Reassigned

__all__ = ["LADHead"]


@HEADS.register_module()
class LADHead(PAAHead):
    """PAA's head that is told who is positive."""

    @torch.no_grad()
    def get_label_assignment(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],
                             iou_preds: list[Tensor], gt_bboxes: list[Tensor],
                             gt_labels: list[Tensor] | None, img_metas: list[Meta],
                             gt_bboxes_ignore: list[Tensor] | None = None) -> Reassigned:
        """Who is positive for the teacher, whose head this is; arguments as of the loss."""
        levels, targets = self.batch_targets(cls_scores, gt_bboxes, gt_labels, img_metas,
                                             gt_bboxes_ignore)
        return self.reassign(levels, targets, cls_scores, bbox_preds)

    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             iou_preds: list[Tensor], gt_bboxes: list[Tensor], gt_labels: list[Tensor] | None,
             img_metas: list[Meta], gt_bboxes_ignore: list[Tensor] | None = None,
             label_assignment_results: Reassigned | None = None) -> dict[str, Tensor]:
        """As :meth:`PAAHead.loss`, of whom the teacher has chosen."""
        if label_assignment_results is None:
            raise TypeError("LADHead: loss needs label_assignment_results, what the teacher's "
                            "get_label_assignment returns")
        levels, targets = self.batch_targets(cls_scores, gt_bboxes, gt_labels, img_metas,
                                             gt_bboxes_ignore)
        return self.losses(levels, targets, cls_scores, bbox_preds, iou_preds,
                           label_assignment_results)

    def box_loss(self, pred: Tensor, learn: Tensor, iou: Tensor, pos: Tensor,
                 num_pos: int) -> Tensor:
        """The mean loss of the positives' boxes: the teacher's IoUs are not the student's."""
        return self.loss_bbox(pred, learn, pos.to(pred.dtype), avg_factor=max(num_pos, 1))

    def forward_train(self, x: Sequence[Tensor],  # type: ignore[override]
                      label_assignment_results: Reassigned, img_metas: list[Meta],
                      gt_bboxes: list[Tensor], gt_labels: list[Tensor] | None = None,
                      gt_bboxes_ignore: list[Tensor] | None = None,
                      **kwargs: Any) -> dict[str, Tensor]:
        """Losses of feature maps."""
        cls_scores, bbox_preds, iou_preds = self(x)
        return self.loss(cls_scores, bbox_preds, iou_preds, gt_bboxes, gt_labels, img_metas,
                         gt_bboxes_ignore, label_assignment_results)
