"""Boxes that are their own targets."""

from __future__ import annotations

from torch import Tensor

from ..builder import BBOX_CODERS
from .base_bbox_coder import BaseBBoxCoder

__all__ = ["PseudoBBoxCoder"]


@BBOX_CODERS.register_module()
class PseudoBBoxCoder(BaseBBoxCoder):
    """Encoding and decoding return the boxes as they are."""

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        return gt_bboxes

    def decode(self, bboxes: Tensor, pred_bboxes: Tensor) -> Tensor:
        return pred_bboxes
