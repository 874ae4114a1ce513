"""The neck of CenterNet (Zhou et al., https://arxiv.org/abs/1904.07850)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.runner import BaseModule, auto_fp16
from fastdet.utils.types import InitCfg

from ..builder import NECKS
from ..utils.checks import check_last_map

__all__ = ["CTResNetNeck"]



@NECKS.register_module()
class CTResNetNeck(BaseModule):
    """Stages of a 3x3 convolution and a transposed convolution that doubles the size.

    Args:
        in_channel: channels of the last map of the backbone.
        num_deconv_filters: channels of each stage.
        num_deconv_kernels: kernel of the transposed convolution of each stage.
        use_dcn: the 3x3 convolutions are modulated deformable ones.
        init_cfg: kept; :meth:`init_weights` does not read it.

    Raises:
        ValueError: there are not as many kernels as filters.
    """

    def __init__(self, in_channel: int, num_deconv_filters: Sequence[int],
                 num_deconv_kernels: Sequence[int], use_dcn: bool = True,
                 init_cfg: InitCfg = None) -> None:
        super().__init__(init_cfg)
        if len(num_deconv_filters) != len(num_deconv_kernels):
            raise ValueError("num_deconv_filters and num_deconv_kernels must be of one length, "
                             f"got {num_deconv_filters} and {num_deconv_kernels}")
        self.fp16_enabled = False
        self.use_dcn = use_dcn
        self.in_channel = in_channel
        layers = []
        channels = in_channel
        for filters, kernel in zip(num_deconv_filters, num_deconv_kernels):
            layers += [
                ConvModule(channels, filters, 3, padding=1, norm_cfg={"type": "BN"},
                           conv_cfg={"type": "DCNv2"} if use_dcn else None),
                ConvModule(filters, filters, kernel, stride=2, padding=1, norm_cfg={"type": "BN"},
                           conv_cfg={"type": "deconv"})]
            channels = filters
        self.deconv_layers = nn.Sequential(*layers)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Bilinear upsampling in the transposed convolutions, torch's own draw for plain ones.

        As in CenterNet's code the bilinear kernel goes to the first output channel alone; the
        others keep what torch draws. Deformable convolutions are left as they were built.
        """
        for m in self.modules():
            if isinstance(m, nn.ConvTranspose2d):
                m.reset_parameters()
                half = math.ceil(m.weight.shape[2] / 2)
                centre = (2 * half - 1 - half % 2) / (2 * half)
                ramp_y, ramp_x = (1 - (torch.arange(n) / half - centre).abs()
                                  for n in m.weight.shape[2:])
                m.weight[:, 0] = (ramp_y[:, None] * ramp_x).to(m.weight)
            elif isinstance(m, nn.BatchNorm2d):
                nn.init.ones_(m.weight)
                nn.init.zeros_(m.bias)
            elif isinstance(m, nn.Conv2d) and not self.use_dcn:
                m.reset_parameters()

    @auto_fp16()
    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor]:
        """Upsample the last map.

        Args:
            inputs: the backbone's maps; only the last ``(N, in_channel, H, W)`` is read.

        Returns:
            One map ``(N, num_deconv_filters[-1], H', W')``.

        Raises:
            TypeError: ``inputs`` is not a list or tuple.
        """
        check_last_map(self, inputs, self.in_channel)
        return (self.deconv_layers(inputs[-1]),)
