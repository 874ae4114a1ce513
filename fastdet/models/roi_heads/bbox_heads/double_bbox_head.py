"""Classes by linear layers, boxes by convolutions (Double-Head R-CNN, arXiv 1904.06493)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.runner import BaseModule, ModuleList

from ...backbones.resnet import Bottleneck
from ...builder import HEADS
from .bbox_head import BBoxHead

__all__ = ["BasicResBlock", "DoubleConvFCBBoxHead"]


class BasicResBlock(BaseModule):
    """A 3x3 and a 1x1 convolution, and a 1x1 convolution beside them.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        init_cfg: how weights are initialised.
    """

    def __init__(self, in_channels: int, out_channels: int, conv_cfg: Any = None,
                 norm_cfg: Any = dict(type="BN"), init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        norm = dict(conv_cfg=conv_cfg, norm_cfg=norm_cfg, bias=False)
        self.conv1 = ConvModule(in_channels, in_channels, 3, padding=1, **norm)
        self.conv2 = ConvModule(in_channels, out_channels, 1, act_cfg=None, **norm)
        self.conv_identity = ConvModule(in_channels, out_channels, 1, act_cfg=None, **norm)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Regions [N, in_channels, h, w] to [N, out_channels, h, w]."""
        return self.relu(self.conv2(self.conv1(x)) + self.conv_identity(x))


@HEADS.register_module()
class DoubleConvFCBBoxHead(BBoxHead):
    """Two heads that share nothing::

                      /-> cls
        roi features -> fcs
                      \\-> convs -> reg

    Args:
        num_convs: residual blocks of the boxes, after the first one.
        num_fcs: linear layers of the classes.
        conv_out_channels: of the blocks.
        fc_out_channels: of the linear layers.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        init_cfg: how weights are initialised.
        kwargs: of :class:`BBoxHead`; ``with_avg_pool`` must be true, as it is by default.

    Raises:
        ValueError: there is no average pooling, no block or no linear layer.
    """

    def __init__(self, num_convs: int = 0, num_fcs: int = 0, conv_out_channels: int = 1024,
                 fc_out_channels: int = 1024, conv_cfg: Any = None,
                 norm_cfg: Any = dict(type="BN"),
                 init_cfg: Any = dict(type="Normal", override=[
                     dict(type="Normal", name="fc_cls", std=0.01),
                     dict(type="Normal", name="fc_reg", std=0.001),
                     dict(type="Xavier", name="fc_branch", distribution="uniform")]),
                 **kwargs: Any) -> None:
        kwargs.setdefault("with_avg_pool", True)
        super().__init__(init_cfg=init_cfg, **kwargs)
        if not self.with_avg_pool or num_convs <= 0 or num_fcs <= 0:
            raise ValueError(
                "DoubleConvFCBBoxHead needs with_avg_pool, num_convs and num_fcs, got "
                f"with_avg_pool={self.with_avg_pool}, num_convs={num_convs}, num_fcs={num_fcs}")
        self.num_convs = num_convs
        self.num_fcs = num_fcs
        self.conv_out_channels = conv_out_channels
        self.fc_out_channels = fc_out_channels
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.fc_cls = nn.Linear(fc_out_channels, self.num_classes + 1)
        self.fc_reg = nn.Linear(conv_out_channels, self.reg_channels)
        self.res_block = BasicResBlock(self.in_channels, conv_out_channels, conv_cfg, norm_cfg)
        self.conv_branch = ModuleList([
            Bottleneck(conv_out_channels, conv_out_channels // 4, conv_cfg=conv_cfg,
                       norm_cfg=norm_cfg) for _ in range(num_convs)])
        widths = [self.in_channels * self.roi_feat_area] + [fc_out_channels] * num_fcs
        self.fc_branch = ModuleList([nn.Linear(*pair) for pair in pairwise(widths)])
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_cls: Tensor, x_reg: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore
        """Logits of regions [N, in_channels, h, w], and deltas of others of the same shape."""
        boxes = self.res_block(x_reg)
        for block in self.conv_branch:
            boxes = block(boxes)
        classes = x_cls.flatten(1)
        for fc in self.fc_branch:
            classes = self.relu(fc(classes))
        return self.fc_cls(classes), self.fc_reg(self.pooled(boxes))
