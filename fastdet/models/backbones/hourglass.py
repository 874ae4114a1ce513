"""Hourglass network (`arXiv 1603.06937 <https://arxiv.org/abs/1603.06937>`_)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from fastdet.cnn import ConvModule
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg

from ..builder import BACKBONES
from ..utils import ResLayer
from ..utils.checks import check_image
from ..utils.misc import pretrained_init_cfg
from .resnet import BasicBlock

__all__ = ["HourglassModule", "HourglassNet"]



class HourglassModule(BaseModule):
    """One hourglass: down and up again, with a branch at the full size beside it.

    The lower half is an hourglass of one level less, and so on.

    Args:
        depth: number of levels, at least 1.
        stage_channels: channels of this level and of those below.
        stage_blocks: residual blocks of each level's branches.
        norm_cfg: config of the normalisations of this level. The levels below have plain batch
            norms, as in MMDetection.
        init_cfg: the initialiser's config.
        upsample_cfg: arguments of :func:`torch.nn.functional.interpolate`; the size is that of
            the other branch if there is no ``scale_factor``.
    """

    def __init__(self, depth: int, stage_channels: Sequence[int], stage_blocks: Sequence[int],
                 norm_cfg: Cfg = {"type": "BN", "requires_grad": True},
                 init_cfg: Any = None,
                 upsample_cfg: Cfg = {"mode": "nearest"}) -> None:
        super().__init__(init_cfg)
        self.depth = depth
        channels, below = stage_channels[:2]
        num_blocks = stage_blocks[0]
        self.up1 = ResLayer(BasicBlock, channels, channels, num_blocks, norm_cfg=norm_cfg)
        self.low1 = ResLayer(BasicBlock, channels, below, num_blocks, stride=2, norm_cfg=norm_cfg)
        self.low2: nn.Module
        if depth > 1:
            self.low2 = HourglassModule(depth - 1, stage_channels[1:], stage_blocks[1:])
        else:
            self.low2 = ResLayer(BasicBlock, below, below, stage_blocks[1], norm_cfg=norm_cfg)
        self.low3 = ResLayer(BasicBlock, below, channels, num_blocks, norm_cfg=norm_cfg,
                             downsample_first=False)
        self.up2 = F.interpolate
        self.upsample_cfg = upsample_cfg

    def forward(self, x: Tensor) -> Tensor:
        """Run the hourglass on ``(N, stage_channels[0], H, W)``."""
        up1 = self.up1(x)
        low = self.low3(self.low2(self.low1(x)))
        size = {} if "scale_factor" in self.upsample_cfg else {"size": up1.shape[2:]}
        return up1 + self.up2(low, **size, **self.upsample_cfg)


@BACKBONES.register_module()
class HourglassNet(BaseModule):
    """Stacked hourglasses, the backbone of CornerNet and CentripetalNet.

    Args:
        downsample_times: levels of an hourglass.
        num_stacks: number of hourglasses, 1 for Hourglass-52, 2 for Hourglass-104.
        stage_channels: channels of each level, the full size first.
        stage_blocks: residual blocks of each level's branches.
        feat_channel: channels of the outputs.
        norm_cfg: config of the normalisations outside the hourglasses, whose own are plain batch
            norms, as in MMDetection.
        pretrained: deprecated; a checkpoint's path or address.
        init_cfg: must be ``None``.

    Raises:
        ValueError: ``init_cfg`` is given, there is no hourglass, or ``stage_channels`` and
            ``stage_blocks`` are not one for each level and one more.

    Example:
        >>> import torch
        >>> self = HourglassNet().eval()
        >>> [tuple(out.shape) for out in self(torch.rand(1, 3, 128, 128))]
        [(1, 256, 32, 32), (1, 256, 32, 32)]
    """

    def __init__(self, downsample_times: int = 5, num_stacks: int = 2,
                 stage_channels: Sequence[int] = (256, 256, 384, 384, 384, 512),
                 stage_blocks: Sequence[int] = (2, 2, 2, 2, 2, 4), feat_channel: int = 256,
                 norm_cfg: Cfg = {"type": "BN", "requires_grad": True},
                 pretrained: str | None = None, init_cfg: None = None) -> None:
        if init_cfg is not None:
            raise ValueError("init_cfg of HourglassNet must be None, its initialisation is fixed, "
                             f"got {init_cfg!r}")
        super().__init__(pretrained_init_cfg(pretrained, None))
        if num_stacks < 1:
            raise ValueError(f"num_stacks must be at least 1, got {num_stacks}")
        if not len(stage_blocks) == len(stage_channels) > downsample_times:
            raise ValueError("stage_channels and stage_blocks must have the same number of "
                             f"entries, more than downsample_times={downsample_times}, "
                             f"got {stage_channels} and {stage_blocks}")
        self.num_stacks = num_stacks
        channels = stage_channels[0]
        self.stem = nn.Sequential(
            ConvModule(3, channels // 2, 7, padding=3, stride=2, norm_cfg=norm_cfg),
            ResLayer(BasicBlock, channels // 2, channels, 1, stride=2, norm_cfg=norm_cfg))
        self.hourglass_modules = nn.ModuleList(
            HourglassModule(downsample_times, stage_channels, stage_blocks)
            for _ in range(num_stacks))
        # A ResLayer has one block at least: with one stack it is there and never runs, and
        # checkpoints hold it.
        self.inters = ResLayer(BasicBlock, channels, channels, num_stacks - 1, norm_cfg=norm_cfg)
        self.conv1x1s = nn.ModuleList(
            ConvModule(channels, channels, 1, norm_cfg=norm_cfg, act_cfg=None)
            for _ in range(num_stacks - 1))
        self.out_convs = nn.ModuleList(
            ConvModule(channels, feat_channel, 3, padding=1, norm_cfg=norm_cfg)
            for _ in range(num_stacks))
        self.remap_convs = nn.ModuleList(
            ConvModule(feat_channel, channels, 1, norm_cfg=norm_cfg, act_cfg=None)
            for _ in range(num_stacks - 1))
        self.relu = nn.ReLU(inplace=True)

    def init_weights(self) -> None:
        """Load the checkpoint, or else draw every convolution as torch does by default."""
        super().init_weights()
        if self.init_cfg is None:
            for m in self.modules():
                if isinstance(m, nn.Conv2d):
                    m.reset_parameters()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map images ``(N, 3, H, W)`` to the output ``(N, C, H / 4, W / 4)`` of each hourglass."""
        check_image(self, x, 3)
        x = self.stem(x)
        outs = []
        for i, (hourglass, out_conv) in enumerate(zip(self.hourglass_modules, self.out_convs)):
            out = out_conv(hourglass(x))
            outs.append(out)
            if i < self.num_stacks - 1:
                x = self.conv1x1s[i](x) + self.remap_convs[i](out)
                x = self.inters[i](self.relu(x))
        return outs
