"""Inverted residual block of MobileNetV2, with the squeeze-and-excitation of its successors."""

from __future__ import annotations

from typing import Any

import torch.utils.checkpoint as cp
from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.cnn.bricks.drop import DropPath
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg

from .se_layer import SELayer

__all__ = ["InvertedResidual"]



class InvertedResidual(BaseModule):
    """Expand by a 1x1 convolution, filter each channel by itself, project back without activation.

    The input is added to the result where stride and channels let it.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        mid_channels: channels of the depthwise convolution.
        kernel_size: its kernel.
        stride: its stride, 1 or 2.
        se_cfg: arguments of an :class:`SELayer` behind it; ``None`` for none.
        with_expand_conv: whether there is the first convolution.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        act_cfg: config of the activations.
        drop_path_rate: chance of a sample to skip the block in train mode.
        with_cp: recompute the block in backward instead of keeping its activations.
        init_cfg: the initialiser's config.

    Raises:
        ValueError: the stride is neither 1 nor 2, or there is no expanding convolution but
            ``mid_channels`` differ from ``in_channels``.
        TypeError: ``se_cfg`` is neither a dict nor ``None``.

    Source: MobileNetV2, https://arxiv.org/abs/1801.04381
    """

    def __init__(self, in_channels: int, out_channels: int, mid_channels: int,
                 kernel_size: int = 3, stride: int = 1, se_cfg: Cfg | None = None,
                 with_expand_conv: bool = True, conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN"},
                 act_cfg: Cfg = {"type": "ReLU"},
                 drop_path_rate: float = 0.0, with_cp: bool = False,
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        if stride not in (1, 2):
            raise ValueError(f"stride of an inverted residual block must be 1 or 2, got {stride}")
        if se_cfg is not None and not isinstance(se_cfg, dict):
            raise TypeError(f"se_cfg must be a config dict or None, got {type(se_cfg).__name__}")
        if not with_expand_conv and mid_channels != in_channels:
            raise ValueError("mid_channels must be in_channels where with_expand_conv is false, "
                             f"got {mid_channels} and {in_channels}")
        self.with_res_shortcut = stride == 1 and in_channels == out_channels
        self.with_cp = with_cp
        self.with_se = se_cfg is not None
        self.with_expand_conv = with_expand_conv
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()
        if with_expand_conv:
            self.expand_conv = ConvModule(in_channels, mid_channels, 1, conv_cfg=conv_cfg,
                                          norm_cfg=norm_cfg, act_cfg=act_cfg)
        self.depthwise_conv = ConvModule(
            mid_channels, mid_channels, kernel_size, stride=stride, padding=kernel_size // 2,
            groups=mid_channels, conv_cfg=conv_cfg, norm_cfg=norm_cfg, act_cfg=act_cfg)
        if se_cfg is not None:
            self.se = SELayer(**se_cfg)
        self.linear_conv = ConvModule(mid_channels, out_channels, 1, conv_cfg=conv_cfg,
                                      norm_cfg=norm_cfg, act_cfg=None)

    def _forward(self, x: Tensor) -> Tensor:
        out = self.expand_conv(x) if self.with_expand_conv else x
        out = self.depthwise_conv(out)
        if self.with_se:
            out = self.se(out)
        out = self.linear_conv(out)
        return x + self.drop_path(out) if self.with_res_shortcut else out

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        if self.with_cp and x.requires_grad:
            return cp.checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)
