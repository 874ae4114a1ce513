"""What every head of pixels' classes has."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fastdet.runner import BaseModule, force_fp32

from ..builder import build_loss
from ..utils import interpolate_as

__all__ = ["BaseSemanticHead"]


class BaseSemanticHead(BaseModule, metaclass=ABCMeta):
    """The base of semantic heads.

    Args:
        num_classes: of pixels.
        init_cfg: how weights are initialised.
        loss_seg: config of the loss.
    """

    def __init__(self, num_classes: int, init_cfg: Any = None,
                 loss_seg: dict[str, Any] = dict(type="CrossEntropyLoss", ignore_index=255,
                                                 loss_weight=1.0)) -> None:
        super().__init__(init_cfg)
        self.loss_seg: Any = build_loss(loss_seg)
        self.num_classes = num_classes

    @force_fp32(apply_to=("seg_preds",))
    def loss(self, seg_preds: Tensor, gt_semantic_seg: Tensor) -> dict[str, Tensor]:
        """``loss_seg`` of logits [B, C, h, w], resized to their classes [B, 1, H, W]."""
        logits = interpolate_as(seg_preds, gt_semantic_seg).permute(0, 2, 3, 1)
        return {"loss_seg": self.loss_seg(logits.reshape(-1, self.num_classes),
                                          gt_semantic_seg.reshape(-1).long())}

    @abstractmethod
    def forward(self, x: Sequence[Tensor]) -> dict[str, Tensor]:
        """``seg_preds``, logits [B, C, h, w], and ``feats`` of feature maps."""

    def forward_train(self, x: Sequence[Tensor], gt_semantic_seg: Tensor) -> dict[str, Tensor]:
        """Losses of feature maps and classes of pixels [B, 1, H, W]."""
        return self.loss(self(x)["seg_preds"], gt_semantic_seg)

    def simple_test(self, x: Sequence[Tensor], img_metas: list[dict[str, Any]],
                    rescale: bool = False) -> Tensor:
        """Logits of pixels; all images are taken to be of the first one's size.

        Args:
            x: feature maps.
            img_metas: of each image; ``pad_shape``, ``img_shape`` and ``ori_shape`` are read.
            rescale: in the original image.

        Returns:
            ``[B, C, H, W]``, H and W those of the padded input or of the original image.
        """
        meta = img_metas[0]
        seg_preds = F.interpolate(self(x)["seg_preds"], size=tuple(meta["pad_shape"][:2]),
                                  mode="bilinear", align_corners=False)
        if not rescale:
            return seg_preds
        h, w = meta["img_shape"][:2]
        return F.interpolate(seg_preds[:, :, :h, :w], size=tuple(meta["ori_shape"][:2]),
                             mode="bilinear", align_corners=False)
