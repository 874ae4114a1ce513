"""Cross-stage partial layer (`arXiv 1911.11929 <https://arxiv.org/abs/1911.11929>`_)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import ConvModule, DepthwiseSeparableConvModule
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg

__all__ = ["CSPLayer", "DarknetBottleneck"]



class DarknetBottleneck(BaseModule):
    """A 1x1 and a 3x3 convolution, and the input added to them.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        expansion: channels between the convolutions per channel of the output.
        add_identity: add the input, if the channels agree.
        use_depthwise: the 3x3 convolution is a depthwise separable one.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        act_cfg: config of the activations.
        init_cfg: the initialiser's config.
    """

    def __init__(self, in_channels: int, out_channels: int, expansion: float = 0.5,
                 add_identity: bool = True, use_depthwise: bool = False,
                 conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN", "momentum": 0.03, "eps": 0.001},
                 act_cfg: Cfg = {"type": "Swish"},
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        hidden = int(out_channels * expansion)
        conv = DepthwiseSeparableConvModule if use_depthwise else ConvModule
        self.conv1 = ConvModule(in_channels, hidden, 1, conv_cfg=conv_cfg, norm_cfg=norm_cfg,
                                act_cfg=act_cfg)
        self.conv2 = conv(hidden, out_channels, 3, stride=1, padding=1, conv_cfg=conv_cfg,
                          norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.add_identity = add_identity and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``."""
        out = self.conv2(self.conv1(x))
        return out + x if self.add_identity else out


class CSPLayer(BaseModule):
    """Two 1x1 convolutions side by side, bottlenecks behind one of them, and a 1x1 over both.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        expand_ratio: channels of each branch per channel of the output.
        num_blocks: number of bottlenecks.
        add_identity: whether the bottlenecks add their input.
        use_depthwise: whether their 3x3 convolutions are depthwise separable.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        act_cfg: config of the activations.
        init_cfg: the initialiser's config.

    Source: CSPNet, https://arxiv.org/abs/1911.11929
    """

    def __init__(self, in_channels: int, out_channels: int, expand_ratio: float = 0.5,
                 num_blocks: int = 1, add_identity: bool = True, use_depthwise: bool = False,
                 conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN", "momentum": 0.03, "eps": 0.001},
                 act_cfg: Cfg = {"type": "Swish"},
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        cfgs: Cfg = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        hidden = int(out_channels * expand_ratio)
        self.main_conv = ConvModule(in_channels, hidden, 1, **cfgs)
        self.short_conv = ConvModule(in_channels, hidden, 1, **cfgs)
        self.final_conv = ConvModule(2 * hidden, out_channels, 1, **cfgs)
        self.blocks = nn.Sequential(*(
            DarknetBottleneck(hidden, hidden, 1.0, add_identity, use_depthwise, **cfgs)
            for _ in range(num_blocks)))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``."""
        main = self.blocks(self.main_conv(x))
        return self.final_conv(torch.cat((main, self.short_conv(x)), dim=1))
