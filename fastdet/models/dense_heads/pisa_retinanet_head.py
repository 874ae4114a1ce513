"""RetinaNet's head with prime samples (PISA, arXiv 1904.04821)."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..builder import HEADS
from ..losses.pisa_loss import carl_loss, isr_p
from ..losses.utils import at_least_float32
from .anchor_head import AnchorHead, AnchorTargets
from .base_dense_head import Meta
from .retina_head import RetinaHead

__all__ = ["PISARetinaHead", "prime_samples"]


def prime_samples(head: AnchorHead, anchors: Tensor, score: Tensor, pred: Tensor,
                  targets: AnchorTargets, loss_cls: Any,
                  loss_bbox: Callable[..., Tensor]) -> tuple[AnchorTargets, dict[str, Tensor]]:
    """Reweigh positives by their importance, and tie the box loss to the class (eq. 4 and 6).

    Args:
        head: ``isr`` and ``carl`` of its ``train_cfg`` say whether and how.
        anchors: [N, 4].
        score: [B N, C].
        pred: [B N, 4].
        targets: of the batch.
        loss_cls: the classification loss.
        loss_bbox: the regression loss.

    Returns:
        The targets with new label weights, and ``loss_carl`` where there is one.
    """
    flat = tuple(part.flatten(0, 1) for part in targets[:4])
    if head.train_cfg.get("isr") is not None:
        results = [SimpleNamespace(pos_assigned_gt_inds=gt[gt > 0] - 1) for gt in targets.gt_inds]
        flat = isr_p(score, pred, flat, anchors.repeat(len(results), 1),  # type: ignore[arg-type]
                     results, loss_cls=loss_cls, bbox_coder=head.bbox_coder,
                     num_class=head.num_classes, **head.train_cfg["isr"])
        targets = targets._replace(label_weights=flat[1].view_as(targets.label_weights))
    if head.train_cfg.get("carl") is None:
        return targets, {}
    return targets, carl_loss(
        score, flat[0], pred, flat[2], loss_bbox, **head.train_cfg["carl"],
        avg_factor=at_least_float32(targets.num_pos.to(score.dtype)),
        sigmoid=head.use_sigmoid_cls, num_class=head.num_classes)


@HEADS.register_module()
class PISARetinaHead(RetinaHead):
    """RetinaNet's head whose ``train_cfg`` has ``isr`` and ``carl``."""

    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             gt_bboxes: list[Tensor], gt_labels: list[Tensor] | None, img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Any]:
        """Losses of all levels together.

        Args:
            cls_scores: [B, A C, H, W] of each level.
            bbox_preds: [B, A 4, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: of each image.
            gt_bboxes_ignore: [g, 4] of each image.

        Returns:
            ``loss_cls``, ``loss_bbox`` and, with ``carl``, ``loss_carl``.
        """
        levels, targets = self.batch_targets(cls_scores, gt_bboxes, gt_labels, img_metas,
                                             gt_bboxes_ignore)
        score = self.flattened(cls_scores, self.cls_out_channels)
        pred = self.flattened(bbox_preds, 4)
        targets, carl = prime_samples(self, torch.cat(levels), score, pred, targets,
                                      self.loss_cls, self.loss_bbox)
        total = at_least_float32((targets.num_pos + targets.num_neg if self.sampling else
                                  targets.num_pos).to(score.dtype))
        return {
            "loss_cls": self.loss_cls(score, targets.labels.flatten(),
                                      targets.label_weights.flatten(), avg_factor=total),
            "loss_bbox": self.loss_bbox(pred, targets.boxes.flatten(0, 1),
                                        targets.box_weights.flatten(0, 1), avg_factor=total),
            **carl}
