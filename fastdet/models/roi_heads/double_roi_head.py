"""Boxes from larger regions than classes (Double-Head R-CNN, arXiv 1904.06493)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..builder import HEADS
from .standard_roi_head import StandardRoIHead

__all__ = ["DoubleHeadRoIHead"]


@HEADS.register_module()
class DoubleHeadRoIHead(StandardRoIHead):
    """A head with one input for classes and one for boxes.

    Args:
        reg_roi_scale_factor: how much larger the regions of the boxes are.
        kwargs: of ``BaseRoIHead``.
    """

    def __init__(self, reg_roi_scale_factor: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reg_roi_scale_factor = reg_roi_scale_factor

    def _bbox_forward(self, x: Sequence[Tensor], rois: Tensor) -> dict[str, Any]:
        levels = x[:self.bbox_roi_extractor.num_inputs]
        classes = self.bbox_roi_extractor(levels, rois)
        boxes = self.bbox_roi_extractor(levels, rois, roi_scale_factor=self.reg_roi_scale_factor)
        if self.with_shared_head:
            classes, boxes = self.shared_head(classes), self.shared_head(boxes)
        cls_score, bbox_pred = self.bbox_head(classes, boxes)
        return {"cls_score": cls_score, "bbox_pred": bbox_pred, "bbox_feats": classes}
