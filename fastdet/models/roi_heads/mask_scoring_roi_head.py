"""Masks with scores of their own (Mask Scoring R-CNN, arXiv 1903.00241)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.core.bbox import Samples, bbox2roi

from ..builder import HEADS, build_head
from .base_roi_head import Meta
from .standard_roi_head import StandardRoIHead

__all__ = ["MaskScoringRoIHead"]


def _own(pred: Tensor, labels: Tensor) -> Tensor:
    """What [N, C, ...] says of each row's class."""
    return pred[torch.arange(len(pred), device=pred.device), labels]


@HEADS.register_module()
class MaskScoringRoIHead(StandardRoIHead):
    """A StandardRoIHead whose masks have scores.

    Args:
        mask_iou_head: config of what scores masks.
        kwargs: of ``BaseRoIHead``.
    """

    mask_iou_head: Any

    def __init__(self, mask_iou_head: Any, **kwargs: Any) -> None:
        if mask_iou_head is None:
            raise TypeError("MaskScoringRoIHead: mask_iou_head must be a config, got None")
        super().__init__(**kwargs)
        self.mask_iou_head = build_head(mask_iou_head)

    def _mask_forward_train(self, x: Sequence[Tensor], samples: Samples,
                            bbox_feats: Tensor | None, gt_masks: Any,
                            img_metas: list[Meta]) -> dict[str, Any]:
        found = super()._mask_forward_train(x, samples, bbox_feats, gt_masks, img_metas)
        labels = samples.gt_labels.flatten()[samples.pos_rows]
        masks = _own(found["mask_pred"], labels)
        ious = _own(self.mask_iou_head(found["mask_feats"], masks), labels)
        targets = self.mask_iou_head.get_targets(samples, gt_masks, masks, found["mask_targets"],
                                                 self.train_cfg)
        found["loss_mask"].update(self.mask_iou_head.loss(ious, targets))
        return found

    def simple_test_mask(self, x: Sequence[Tensor], img_metas: list[Meta],
                         det_bboxes: list[Tensor], det_labels: list[Tensor],
                         rescale: bool = False) -> list[Any]:
        """Of each image a pair: of each class the masks in the image, and their scores."""
        head = self.mask_head
        none: list[Any] = [tuple([[] for _ in range(head.num_classes)] for _ in range(2))
                           for _ in img_metas]
        if all(len(b) == 0 for b in det_bboxes):
            return none
        boxes = self.test_boxes(det_bboxes, img_metas, rescale)
        found = self._mask_forward(x, bbox2roi(boxes))
        ious = self.mask_iou_head(found["mask_feats"],
                                  _own(found["mask_pred"], torch.cat(det_labels)))
        lengths = [len(b) for b in boxes]
        return [
            (head.get_seg_masks(mask, box, label, self.test_cfg, meta["ori_shape"],
                                meta["scale_factor"], rescale),
             self.mask_iou_head.get_mask_scores(iou, det, label)) if len(box) else empty
            for mask, iou, box, det, label, meta, empty in zip(
                found["mask_pred"].split(lengths, 0), ious.split(lengths, 0), boxes, det_bboxes,
                det_labels, img_metas, none)]
