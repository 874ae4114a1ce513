"""YOLOv3's boxes (arXiv 1804.02767): centres within a cell, logarithms of sizes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..builder import BBOX_CODERS
from .base_bbox_coder import BaseBBoxCoder, check_pairs

__all__ = ["YOLOBBoxCoder"]


@BBOX_CODERS.register_module()
class YOLOBBoxCoder(BaseBBoxCoder):
    """Offsets of the centre in units of the stride, in (0, 1), and log ratios of the size.

    Args:
        eps: how far offsets stay from 0 and 1, and ratios from 0.
    """

    def __init__(self, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor,  # type: ignore[override]
               stride: float | Tensor) -> Tensor:
        """Targets [N, 4] of anchors [N, 4] and boxes [N, 4].

        Args:
            bboxes: [N, 4], anchors.
            gt_bboxes: [N, 4].
            stride: of the feature map, one number or one of each anchor, in pixels.
        """
        check_pairs(self, bboxes, gt_bboxes)
        if isinstance(stride, Tensor) and stride.dim() == 1:
            stride = stride[:, None]
        centre, size = (bboxes[:, :2] + bboxes[:, 2:]) * 0.5, bboxes[:, 2:] - bboxes[:, :2]
        to = (gt_bboxes[:, :2] + gt_bboxes[:, 2:]) * 0.5
        ratio = (gt_bboxes[:, 2:] - gt_bboxes[:, :2]) / size
        offset = ((to - centre) / stride + 0.5).clamp(self.eps, 1 - self.eps)
        return torch.cat([offset, ratio.clamp(min=self.eps).log()], dim=-1)

    def decode(self, bboxes: Tensor, pred_bboxes: Tensor,  # type: ignore[override]
               stride: float | Tensor) -> Tensor:
        """Boxes [..., 4] of anchors and predictions [..., 4]; ``stride`` as in :meth:`encode`."""
        if pred_bboxes.size(-1) != 4 or bboxes.size(-1) != 4:
            raise ValueError(f"YOLOBBoxCoder: expected [..., 4] twice, got {list(bboxes.shape)} "
                             f"and {list(pred_bboxes.shape)}")
        centre = (bboxes[..., :2] + bboxes[..., 2:]) * 0.5 + (pred_bboxes[..., :2] - 0.5) * stride
        half = (bboxes[..., 2:] - bboxes[..., :2]) * 0.5 * pred_bboxes[..., 2:].exp()
        return torch.cat([centre - half, centre + half], dim=-1)
