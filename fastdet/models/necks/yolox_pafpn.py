"""The path aggregation network of YOLOX (Ge et al., https://arxiv.org/abs/2107.08430)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from fastdet.cnn import ConvModule, DepthwiseSeparableConvModule
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg, InitCfg

from ..builder import NECKS
from ..utils.checks import check_maps
from ..utils.csp_layer import CSPLayer
from .levels import check_size

__all__ = ["YOLOXPAFPN"]



@NECKS.register_module()
class YOLOXPAFPN(BaseModule):
    """A top-down and a bottom-up path that concatenate, with a CSP layer after each step.

    Args:
        in_channels: channels of each input map, from the finest to the coarsest.
        out_channels: channels of every output map.
        num_csp_blocks: number of bottlenecks in each CSP layer.
        use_depthwise: the 3x3 convolutions are depthwise separable.
        upsample_cfg: arguments of :class:`torch.nn.Upsample`.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        act_cfg: config of the activations.
        init_cfg: the initialiser's config.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, num_csp_blocks: int = 3,
                 use_depthwise: bool = False,
                 upsample_cfg: Cfg = {"scale_factor": 2, "mode": "nearest"},
                 conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN", "momentum": 0.03, "eps": 0.001},
                 act_cfg: Cfg = {"type": "Swish"},
                 init_cfg: InitCfg = {
                     "type": "Kaiming", "layer": "Conv2d", "a": 5**0.5,
                     "distribution": "uniform", "mode": "fan_in",
                     "nonlinearity": "leaky_relu"}) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.out_channels = out_channels
        cfgs: Cfg = {"conv_cfg": conv_cfg, "norm_cfg": norm_cfg, "act_cfg": act_cfg}
        csp: Cfg = {"num_blocks": num_csp_blocks, "add_identity": False,
                       "use_depthwise": use_depthwise, **cfgs}
        conv = DepthwiseSeparableConvModule if use_depthwise else ConvModule
        steps = list(pairwise(in_channels))  # (finer, coarser)
        self.upsample = nn.Upsample(**upsample_cfg)
        self.reduce_layers = nn.ModuleList()
        self.top_down_blocks = nn.ModuleList()
        self.downsamples = nn.ModuleList()
        self.bottom_up_blocks = nn.ModuleList()
        for fine, coarse in reversed(steps):
            self.reduce_layers.append(ConvModule(coarse, fine, 1, **cfgs))
            self.top_down_blocks.append(CSPLayer(2 * fine, fine, **csp))
        for fine, coarse in steps:
            self.downsamples.append(conv(fine, fine, 3, stride=2, padding=1, **cfgs))
            self.bottom_up_blocks.append(CSPLayer(2 * fine, coarse, **csp))
        self.out_convs = nn.ModuleList(
            ConvModule(c, out_channels, 1, **cfgs) for c in in_channels)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs: one ``(N, in_channels[i], H_i, W_i)`` per level, each map twice as large as the
                next.

        Returns:
            As many maps of ``out_channels``.

        Raises:
            ValueError: the number of maps is not that of ``in_channels``, or a size does not fit.
        """
        check_maps(self, inputs, self.in_channels)
        top = inputs[-1]
        reduced: list[Tensor] = []  # what each level but the finest gives down, the finest first
        for i, (reduce, block) in enumerate(zip(self.reduce_layers, self.top_down_blocks)):
            level = len(inputs) - 2 - i
            reduced.insert(0, reduce(top))
            up = self.upsample(reduced[0])
            check_size(up, f"level {level + 1} upsampled", inputs[level], level)
            top = block(torch.cat((up, inputs[level]), 1))
        maps = [top]
        for i, (downsample, block) in enumerate(zip(self.downsamples, self.bottom_up_blocks)):
            down = downsample(maps[-1])
            check_size(down, f"level {i} downsampled by 2", reduced[i], i + 1)
            maps.append(block(torch.cat((down, reduced[i]), 1)))
        return tuple(conv(x) for conv, x in zip(self.out_convs, maps))
