"""Overlaps and losses that become stricter as proposals become better (arXiv 2004.06002)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.core.bbox import Samples

from ..builder import HEADS
from ..losses import SmoothL1Loss
from .base_roi_head import Meta
from .standard_roi_head import StandardRoIHead

__all__ = ["DynamicRoIHead"]

#: A median of the deltas below this leaves beta as it is.
EPS = 1e-15


@HEADS.register_module()
class DynamicRoIHead(StandardRoIHead):
    """Dynamic R-CNN.

    ``train_cfg.dynamic_rcnn`` has ``iou_topk``, ``beta_topk``, ``update_iter_interval``,
    ``initial_iou`` and ``initial_beta``. What is noted in an iteration stays on the device; it is
    read once in ``update_iter_interval`` iterations.

    Args:
        kwargs: of ``BaseRoIHead``.

    Raises:
        TypeError: the loss of the boxes has no beta.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(self.bbox_head.loss_bbox, SmoothL1Loss):
            raise TypeError("DynamicRoIHead: loss_bbox must be a SmoothL1Loss, got "
                            f"{type(self.bbox_head.loss_bbox).__name__}")
        self.iou_history: list[Tensor] = []
        self.beta_history: list[Tensor] = []

    def forward_train(self, x: Sequence[Tensor], img_metas: list[Meta],  # type: ignore[override]
                      proposal_list: Any, gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                      gt_bboxes_ignore: list[Tensor] | None = None, gt_masks: Any = None,
                      **kwargs: Any) -> dict[str, Any]:
        """Losses of feature maps and proposals; see ``StandardRoIHead``."""
        losses = super().forward_train(x, img_metas, proposal_list, gt_bboxes, gt_labels,
                                       gt_bboxes_ignore, gt_masks, **kwargs)
        if len(self.iou_history) % self.train_cfg["dynamic_rcnn"]["update_iter_interval"] == 0:
            self.update_hyperparameters()
        return losses

    def note_overlaps(self, overlaps: Tensor, valid: Tensor) -> None:
        """Note the mean over images of the ``iou_topk``-th largest overlap."""
        k = valid.sum(1).clamp(max=self.train_cfg["dynamic_rcnn"]["iou_topk"])
        best = overlaps.masked_fill(~valid, -1.0).sort(dim=1, descending=True).values
        self.iou_history.append(best.gather(1, k[:, None] - 1).mean())

    def _bbox_forward_train(self, x: Sequence[Tensor], samples: Samples, gt_bboxes: Any,
                            gt_labels: Any, img_metas: list[Meta]) -> dict[str, Any]:
        found = super()._bbox_forward_train(x, samples, gt_bboxes, gt_labels, img_metas)
        # The k-th smallest of the positives' mean offsets; infinite where there is no positive.
        _, _, deltas, weights = found["bbox_targets"]
        pos = weights[:, 0] > 0
        offsets = deltas[:, :2].abs().mean(1).masked_fill(~pos, float("inf")).sort().values
        most = self.train_cfg["dynamic_rcnn"]["beta_topk"] * len(img_metas)
        self.beta_history.append(offsets[(pos.sum().clamp(max=most) - 1).clamp(min=0)])
        return found

    def update_hyperparameters(self) -> tuple[float, float]:
        """Move the assigner's overlap and the loss's beta to what was noted, and forget it.

        Returns:
            The new overlap and the new beta.
        """
        cfg, loss = self.train_cfg["dynamic_rcnn"], self.bbox_head.loss_bbox
        iou = max(cfg["initial_iou"], float(torch.stack(self.iou_history).double().mean()))
        assigner: Any = self.bbox_assigner
        assigner.pos_iou_thr = assigner.neg_iou_thr = assigner.min_pos_iou = iou
        betas = torch.stack(self.beta_history).double().cpu()
        betas = betas[betas.isfinite()]
        median = float(betas.quantile(0.5)) if len(betas) else 0.0
        if median >= EPS:
            loss.beta = min(cfg["initial_beta"], median)
        self.iou_history, self.beta_history = [], []
        return iou, loss.beta
