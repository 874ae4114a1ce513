"""Distances of a point to the sides of its box (FCOS, arXiv 1904.01355)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..builder import BBOX_CODERS
from ..transforms import bbox2distance, distance2bbox
from .base_bbox_coder import BaseBBoxCoder, check_pairs

__all__ = ["DistancePointBBoxCoder"]


@BBOX_CODERS.register_module()
class DistancePointBBoxCoder(BaseBBoxCoder):
    """Left, top, right and bottom distances.

    Args:
        clip_border: decoded boxes are clipped to the image.
    """

    def __init__(self, clip_border: bool = True) -> None:
        super().__init__()
        self.clip_border = clip_border

    def encode(self, points: Tensor, gt_bboxes: Tensor, max_dis: float | None = None,
               eps: float = 0.1) -> Tensor:
        """Distances [N, 4] of points [N, 2] to the sides of boxes [N, 4]; see `bbox2distance`."""
        check_pairs(self, points, gt_bboxes, width=2)
        return bbox2distance(points, gt_bboxes, max_dis, eps)

    def decode(self, points: Tensor, pred_bboxes: Tensor, max_shape: Any = None) -> Tensor:
        """Boxes [..., N, 4] of points [..., N, 2] and distances [..., N, 4]."""
        check_pairs(self, points, pred_bboxes, width=2)
        return distance2bbox(points, pred_bboxes, max_shape if self.clip_border else None)
