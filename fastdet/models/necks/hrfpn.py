"""The pyramid of HRNet (Sun et al., https://arxiv.org/abs/1904.04514)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg, InitCfg

from ..builder import NECKS
from ..utils.checks import check_maps
from .levels import check_in_channels, check_size

__all__ = ["HRFPN"]



@NECKS.register_module()
class HRFPN(BaseModule):
    """Concatenate all maps at the finest size, and pool a pyramid out of them.

    Args:
        in_channels: channels of each input map; map i is 2**i times smaller than the first.
        out_channels: channels of every output map.
        num_outs: number of output maps; before its convolution map i is the finest one pooled by
            2**i.
        pooling_type: ``'AVG'`` or ``'MAX'``.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: kept; there are no normalisations.
        with_cp: recompute the convolutions in backward instead of keeping their activations.
        stride: stride of the 3x3 convolution of every output map.
        init_cfg: the initialiser's config.

    Raises:
        TypeError: ``in_channels`` is not a list.
        ValueError: ``pooling_type`` is unknown.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int, num_outs: int = 5,
                 pooling_type: str = "AVG", conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg | None = None, with_cp: bool = False, stride: int = 1,
                 init_cfg: InitCfg = {
                     "type": "Caffe2Xavier", "layer": "Conv2d"}) -> None:
        super().__init__(init_cfg)
        check_in_channels(in_channels)
        if pooling_type not in ("AVG", "MAX"):
            raise ValueError(f"pooling_type must be 'AVG' or 'MAX', got {pooling_type!r}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_ins = len(in_channels)
        self.num_outs = num_outs
        self.with_cp = with_cp
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.pooling = F.max_pool2d if pooling_type == "MAX" else F.avg_pool2d
        self.reduction_conv = ConvModule(sum(in_channels), out_channels, 1, conv_cfg=conv_cfg,
                                         act_cfg=None)
        self.fpn_convs = nn.ModuleList(
            ConvModule(out_channels, out_channels, 3, padding=1, stride=stride, conv_cfg=conv_cfg,
                       act_cfg=None)
            for _ in range(num_outs))

    def _run(self, conv: nn.Module, x: Tensor) -> Tensor:
        if self.with_cp and x.requires_grad:
            return cp.checkpoint(conv, x, use_reentrant=False)
        return conv(x)

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Build the pyramid.

        Args:
            inputs: one ``(N, in_channels[i], H / 2**i, W / 2**i)`` per branch.

        Returns:
            ``num_outs`` maps of ``out_channels``.

        Raises:
            ValueError: the number of maps is not that of ``in_channels``, or a size does not fit.
        """
        check_maps(self, inputs, self.in_channels)
        maps = [inputs[0]]
        for i, x in enumerate(inputs[1:], 1):
            maps.append(F.interpolate(x, scale_factor=2**i, mode="bilinear"))
            check_size(maps[i], f"level {i} upsampled by {2**i}", inputs[0], 0)
        fused = self._run(self.reduction_conv, torch.cat(maps, 1))
        pooled = [self.pooling(fused, 2**i, 2**i) if i else fused for i in range(self.num_outs)]
        return tuple(self._run(conv, x) for conv, x in zip(self.fpn_convs, pooled))
