"""Classes of pixels from all levels at once (HTC, arXiv 1901.07518)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.runner import BaseModule, auto_fp16, force_fp32

from ...builder import HEADS, build_loss

__all__ = ["FusedSemanticHead"]


@HEADS.register_module()
class FusedSemanticHead(BaseModule):
    """All levels, resized to one of them and summed, then convolutions::

        in_1 -> 1x1 conv ---
                            |
        in_2 -> 1x1 conv ----> convs -> 1x1 conv (classes)
                            |        \\-> 1x1 conv (features)
        in_3 -> 1x1 conv ---

    Args:
        num_ins: how many levels.
        fusion_level: the level of whose size the others become.
        num_convs: convolutions.
        in_channels: of the levels.
        conv_out_channels: of the convolutions.
        num_classes: classes of pixels.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        ignore_label: the old spelling of ``ignore_index`` of ``loss_seg``.
        loss_weight: the old spelling of that of ``loss_seg``.
        loss_seg: config of the loss.
        init_cfg: how weights are initialised.
    """

    convs: Any

    def __init__(self, num_ins: int, fusion_level: int, num_convs: int = 4,
                 in_channels: int = 256, conv_out_channels: int = 256, num_classes: int = 183,
                 conv_cfg: Any = None, norm_cfg: Any = None, ignore_label: int | None = None,
                 loss_weight: float | None = None,
                 loss_seg: dict[str, Any] = dict(type="CrossEntropyLoss", ignore_index=255,
                                                 loss_weight=0.2),
                 init_cfg: Any = dict(type="Kaiming",
                                      override=dict(name="conv_logits"))) -> None:
        super().__init__(init_cfg)
        self.num_ins = num_ins
        self.fusion_level = fusion_level
        self.num_convs = num_convs
        self.in_channels = in_channels
        self.conv_out_channels = conv_out_channels
        self.num_classes = num_classes
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.fp16_enabled = False

        def conv(width: int, out: int, size: int, **kwargs: Any) -> ConvModule:
            return ConvModule(width, out, size, padding=size // 2, conv_cfg=conv_cfg,
                              norm_cfg=norm_cfg, **kwargs)

        self.lateral_convs = nn.ModuleList([
            conv(in_channels, in_channels, 1, inplace=False) for _ in range(num_ins)])
        self.convs = nn.ModuleList([
            conv(in_channels if i == 0 else conv_out_channels, conv_out_channels, 3)
            for i in range(num_convs)])
        self.conv_embedding = conv(conv_out_channels, conv_out_channels, 1)
        self.conv_logits = nn.Conv2d(conv_out_channels, num_classes, 1)
        old = {"ignore_index": ignore_label, "loss_weight": loss_weight}
        old = {name: value for name, value in old.items() if value}
        if old:
            warnings.warn("ignore_label and loss_weight of a semantic head are deprecated; give "
                          "loss_seg ignore_index and loss_weight", stacklevel=2)
        self.criterion: Any = build_loss({**loss_seg, **old})

    @auto_fp16()
    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits [B, num_classes, h, w] and features [B, conv_out_channels, h, w] of maps."""
        x = self.lateral_convs[self.fusion_level](feats[self.fusion_level])
        size = tuple(x.shape[-2:])
        for i, feat in enumerate(feats):
            if i != self.fusion_level:
                feat = F.interpolate(feat, size=size, mode="bilinear", align_corners=True)
                x = x + self.lateral_convs[i](feat)
        for conv in self.convs:
            x = conv(x)
        return self.conv_logits(x), self.conv_embedding(x)

    @force_fp32(apply_to=("mask_pred",))
    def loss(self, mask_pred: Tensor, labels: Tensor) -> Tensor:
        """The loss of logits [B, C, h, w] and classes [B, 1, h, w]."""
        return self.criterion(mask_pred, labels.squeeze(1).long())
