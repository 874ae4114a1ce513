"""The neck of YOLOv3 (Redmon and Farhadi, https://arxiv.org/abs/1804.02767)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdet.cnn import ConvModule
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg, InitCfg

from ..builder import NECKS
from ..utils.checks import check_maps
from .levels import check_size

__all__ = ["DetectionBlock", "YOLOV3Neck"]



class DetectionBlock(BaseModule):
    """Five convolutions, 1x1 and 3x3 in turn; the 3x3 ones are twice as wide.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        act_cfg: config of the activations.
        init_cfg: the initialiser's config.
    """

    def __init__(self, in_channels: int, out_channels: int, conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg | None = {"type": "BN", "requires_grad": True},
                 act_cfg: Cfg | None = {
                     "type": "LeakyReLU", "negative_slope": 0.1},
                 init_cfg: InitCfg = None) -> None:
        super().__init__(init_cfg)
        cfgs: Cfg = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        wide = 2 * out_channels
        self.conv1 = ConvModule(in_channels, out_channels, 1, **cfgs)
        self.conv2 = ConvModule(out_channels, wide, 3, padding=1, **cfgs)
        self.conv3 = ConvModule(wide, out_channels, 1, **cfgs)
        self.conv4 = ConvModule(out_channels, wide, 3, padding=1, **cfgs)
        self.conv5 = ConvModule(wide, out_channels, 1, **cfgs)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H, W)``."""
        return self.conv5(self.conv4(self.conv3(self.conv2(self.conv1(x)))))


@NECKS.register_module()
class YOLOV3Neck(BaseModule):
    """From the coarsest level down: detection block, 1x1 convolution, upsample, concatenate.

    Args:
        num_scales: number of levels.
        in_channels: channels of each level, the coarsest first.
        out_channels: channels of each output, the coarsest first.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        act_cfg: config of the activations.
        init_cfg: the initialiser's config.

    Raises:
        ValueError: ``in_channels`` or ``out_channels`` has another length than ``num_scales``.
    """

    def __init__(self, num_scales: int, in_channels: Sequence[int], out_channels: Sequence[int],
                 conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg | None = {"type": "BN", "requires_grad": True},
                 act_cfg: Cfg | None = {
                     "type": "LeakyReLU", "negative_slope": 0.1},
                 init_cfg: InitCfg = None) -> None:
        super().__init__(init_cfg)
        if not num_scales == len(in_channels) == len(out_channels):
            raise ValueError(f"in_channels and out_channels must have num_scales={num_scales} "
                             f"entries, got {in_channels} and {out_channels}")
        self.num_scales = num_scales
        self.in_channels = in_channels
        self.out_channels = out_channels
        cfgs: Cfg = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        self.detect1 = DetectionBlock(in_channels[0], out_channels[0], **cfgs)
        for i in range(1, num_scales):
            out = out_channels[i]
            self.add_module(f"conv{i}", ConvModule(out_channels[i - 1], out, 1, **cfgs))
            self.add_module(f"detect{i + 1}", DetectionBlock(in_channels[i] + out, out, **cfgs))

    def forward(self, feats: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Run all levels.

        Args:
            feats: the backbone's maps, the finest first, each twice as large as the next.

        Returns:
            One map per level, the coarsest first.

        Raises:
            ValueError: the number of maps is not ``num_scales``, or a size does not fit.
        """
        check_maps(self, feats, self.in_channels[::-1])
        outs = [self.detect1(feats[-1])]
        for i in range(1, self.num_scales):
            level = self.num_scales - 1 - i
            up = F.interpolate(getattr(self, f"conv{i}")(outs[-1]), scale_factor=2.0)
            check_size(up, f"level {level + 1} upsampled by 2", feats[level], level)
            outs.append(getattr(self, f"detect{i + 1}")(torch.cat((up, feats[level]), 1)))
        return tuple(outs)
