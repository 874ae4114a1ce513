"""Classes of stuff from a pyramid (Panoptic FPN, arXiv 1901.02446)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.runner import ModuleList

from ..builder import HEADS
from ..utils import ConvUpsample
from .base_semantic_head import BaseSemanticHead

__all__ = ["PanopticFPNHead"]


@HEADS.register_module()
class PanopticFPNHead(BaseSemanticHead):
    """All levels brought to the finest one's size and summed; things are one class, the last.

    Args:
        num_things_classes: classes of things, the first ones of the ground truth.
        num_stuff_classes: classes of stuff, behind them.
        in_channels: of the levels.
        inner_channels: of the convolutions.
        start_level: the first level.
        end_level: the level behind the last one.
        fg_range: the old spelling of ``num_things_classes``: first and last class.
        bg_range: the old spelling of ``num_stuff_classes``.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        init_cfg: how weights are initialised.
        loss_seg: config of the loss.
    """

    def __init__(self, num_things_classes: int = 80, num_stuff_classes: int = 53,
                 in_channels: int = 256, inner_channels: int = 128, start_level: int = 0,
                 end_level: int = 4, fg_range: Sequence[int] | None = None,
                 bg_range: Sequence[int] | None = None, conv_cfg: Any = None,
                 norm_cfg: Any = dict(type="GN", num_groups=32, requires_grad=True),
                 init_cfg: Any = None,
                 loss_seg: dict[str, Any] = dict(type="CrossEntropyLoss", ignore_index=-1,
                                                 loss_weight=1.0)) -> None:
        if fg_range is not None and bg_range is not None:
            warnings.warn("fg_range and bg_range are deprecated, use num_things_classes and "
                          "num_stuff_classes", stacklevel=2)
            num_things_classes = fg_range[1] - fg_range[0] + 1
            num_stuff_classes = bg_range[1] - bg_range[0] + 1
        super().__init__(num_stuff_classes + 1, init_cfg, loss_seg)
        self.fg_range = fg_range
        self.bg_range = bg_range
        self.num_things_classes = num_things_classes
        self.num_stuff_classes = num_stuff_classes
        self.start_level = start_level
        self.end_level = end_level
        self.num_stages = end_level - start_level
        self.inner_channels = inner_channels
        self.conv_upsample_layers = ModuleList([
            ConvUpsample(in_channels, inner_channels, num_layers=max(i, 1), num_upsample=i,
                         conv_cfg=conv_cfg, norm_cfg=norm_cfg)
            for i in range(start_level, end_level)])
        self.conv_logits = nn.Conv2d(inner_channels, self.num_classes, 1)

    def init_weights(self) -> None:
        """By ``init_cfg``; the last convolution from a normal distribution."""
        super().init_weights()
        nn.init.normal_(self.conv_logits.weight, 0, 0.01)
        nn.init.zeros_(self.conv_logits.bias)  # type: ignore[arg-type]

    def loss(self, seg_preds: Tensor, gt_semantic_seg: Tensor) -> dict[str, Tensor]:
        """``loss_seg`` of logits [B, C, h, w] and classes [B, 1, H, W], things first."""
        things, classes = self.num_things_classes, gt_semantic_seg.int()
        stuff = (classes >= things) & (classes < things + self.num_stuff_classes)
        classes = torch.where(classes < things, self.num_stuff_classes,
                              torch.where(stuff, classes - things, classes))
        return super().loss(seg_preds, classes)

    def forward(self, x: Sequence[Tensor]) -> dict[str, Tensor]:
        """``seg_preds``, logits [B, C, h, w], and ``feats`` of feature maps."""
        feats = sum(layer(x[self.start_level + i])
                    for i, layer in enumerate(self.conv_upsample_layers))
        return {"seg_preds": self.conv_logits(feats), "feats": feats}  # type: ignore[dict-item]
