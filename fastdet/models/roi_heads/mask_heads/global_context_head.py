"""Which classes an image has (SCNet, arXiv 2012.10150)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.runner import BaseModule, auto_fp16, force_fp32

from ...builder import HEADS
from ...utils import ResLayer, SimplifiedBasicBlock

__all__ = ["GlobalContextHead"]


@HEADS.register_module()
class GlobalContextHead(BaseModule):
    """Convolutions on the coarsest map, its mean, and a score for each class.

    Args:
        num_convs: convolutions.
        in_channels: of the map.
        conv_out_channels: of the convolutions.
        num_classes: foreground classes.
        loss_weight: of the loss.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        conv_to_res: each two convolutions are a residual block.
        init_cfg: how weights are initialised.
    """

    convs: Any

    def __init__(self, num_convs: int = 4, in_channels: int = 256, conv_out_channels: int = 256,
                 num_classes: int = 80, loss_weight: float = 1.0, conv_cfg: Any = None,
                 norm_cfg: Any = None, conv_to_res: bool = False,
                 init_cfg: Any = dict(type="Normal", std=0.01,
                                      override=dict(name="fc"))) -> None:
        super().__init__(init_cfg)
        self.num_convs = num_convs // 2 if conv_to_res else num_convs
        self.in_channels = in_channels
        self.conv_out_channels = conv_out_channels
        self.num_classes = num_classes
        self.loss_weight = loss_weight
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.conv_to_res = conv_to_res
        self.fp16_enabled = False
        if conv_to_res:
            self.convs = ResLayer(SimplifiedBasicBlock, in_channels, conv_out_channels,
                                  self.num_convs, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
        else:
            self.convs = nn.ModuleList([
                ConvModule(in_channels if i == 0 else conv_out_channels, conv_out_channels, 3,
                           padding=1, conv_cfg=conv_cfg, norm_cfg=norm_cfg)
                for i in range(num_convs)])
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(conv_out_channels, num_classes)
        self.criterion = nn.BCEWithLogitsLoss()

    @auto_fp16()
    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits [B, num_classes] and features [B, conv_out_channels, 1, 1] of maps."""
        x = feats[-1]
        for conv in self.convs:
            x = conv(x)
        x = self.pool(x)
        return self.fc(x.flatten(1)), x

    @force_fp32(apply_to=("pred",))
    def loss(self, pred: Tensor, labels: list[Tensor]) -> Tensor:
        """The loss of logits [B, num_classes] and the classes of each image's objects."""
        targets = pred.new_zeros(pred.shape)
        for row, label in zip(targets, labels):
            row.index_fill_(0, label, 1.0)
        return self.loss_weight * self.criterion(pred, targets)
