"""Recursive feature pyramid of DetectoRS (Qiao et al., https://arxiv.org/abs/2006.02334)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import constant_init, xavier_init
from fastdet.runner import BaseModule, ModuleList
from fastdet.utils.types import Cfg, InitCfg

from ..builder import NECKS, build_backbone
from ..utils.checks import check_count
from .fpn import FPN

__all__ = ["ASPP", "RFP"]



class ASPP(BaseModule):
    """Atrous spatial pyramid pooling: convolutions side by side, the last on the global average.

    Args:
        in_channels: channels of the input.
        out_channels: channels of each convolution.
        dilations: dilation of each convolution, which is 1x1 where the dilation is 1 and else
            3x3. The last one must be 1.
        init_cfg: the initialiser's config.

    Raises:
        ValueError: there are less than two dilations, or the last one is not 1.

    Source: DeepLabv3, https://arxiv.org/abs/1706.05587
    """

    def __init__(self, in_channels: int, out_channels: int,
                 dilations: Sequence[int] = (1, 3, 6, 1),
                 init_cfg: InitCfg = {
                     "type": "Kaiming", "layer": "Conv2d"}) -> None:
        super().__init__(init_cfg)
        if len(dilations) < 2 or dilations[-1] != 1:
            raise ValueError("dilations must be two or more of which the last is 1, "
                             f"got {dilations}")
        self.aspp = nn.ModuleList(
            nn.Conv2d(in_channels, out_channels, 3, padding=d, dilation=d) if d > 1
            else nn.Conv2d(in_channels, out_channels, 1) for d in dilations)
        self.gap = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, len(dilations) * out_channels, H, W)``."""
        *convs, on_average = self.aspp
        outs = [F.relu(conv(x)) for conv in convs]
        average = F.relu(on_average(self.gap(x)))
        return torch.cat((*outs, average.expand_as(outs[0])), 1)


@NECKS.register_module()
class RFP(FPN):
    """Feature pyramid that is fed back to further backbones, each with a pyramid of its own.

    Args:
        rfp_steps: number of pyramids; the first is that of the inputs.
        rfp_backbone: config of the further backbones, which have ``rfp_forward(img, maps)``. Each
            has its own weights; the pyramid's are shared.
        aspp_out_channels: channels of each convolution of the :class:`ASPP` that the maps pass on
            their way back.
        aspp_dilations: dilations of those convolutions.
        init_cfg: must be ``None``.
        **kwargs: the arguments of :class:`FPN`.

    Raises:
        ValueError: ``init_cfg`` is given, ``rfp_steps`` is less than 1, or the dilations or the
            arguments of :class:`FPN` do not fit.
    """

    def __init__(self, rfp_steps: int, rfp_backbone: Cfg, aspp_out_channels: int,
                 aspp_dilations: Sequence[int] = (1, 3, 6, 1), init_cfg: None = None,
                 **kwargs: Any) -> None:
        if init_cfg is not None:
            raise ValueError(f"RFP initialises itself and takes no init_cfg, got {init_cfg!r}")
        if rfp_steps < 1:
            raise ValueError(f"rfp_steps must be 1 or more, got {rfp_steps}")
        super().__init__(init_cfg=init_cfg, **kwargs)
        self.rfp_steps = rfp_steps
        self.rfp_modules = ModuleList(build_backbone(rfp_backbone) for _ in range(rfp_steps - 1))
        self.rfp_aspp = ASPP(self.out_channels, aspp_out_channels, aspp_dilations)
        self.rfp_weight = nn.Conv2d(self.out_channels, 1, 1)

    def init_weights(self) -> None:
        """Xavier's uniform draw for the pyramid, zeros for the blend, each backbone its own way.

        The :class:`ASPP` keeps the draw with which it was built, as in MMDetection.
        """
        for part in (self.lateral_convs, self.fpn_convs):
            for m in part.modules():
                if isinstance(m, nn.Conv2d):
                    xavier_init(m, distribution="uniform")
        for backbone in self.rfp_modules:
            backbone.init_weights()  # type: ignore[operator]
        constant_init(self.rfp_weight, 0)

    def forward(self, inputs: Sequence[Tensor]  # type: ignore[override]
                ) -> tuple[Tensor, ...] | list[Tensor]:
        """Build the pyramid.

        Args:
            inputs: the images ``(N, 3, H, W)`` and one ``(N, in_channels[i], H_i, W_i)`` per level
                of the backbone.

        Returns:
            ``num_outs`` maps of ``out_channels``; as in MMDetection a tuple with ``rfp_steps=1``,
            else a list.

        Raises:
            ValueError: the number of maps is not that of ``in_channels`` and one.
        """
        check_count(self, inputs, self.num_ins + 1)
        img, *maps = inputs
        outs: tuple[Tensor, ...] | list[Tensor] = super().forward(maps)
        for backbone in self.rfp_modules:
            back = [outs[0], *(self.rfp_aspp(x) for x in outs[1:])]
            after = super().forward(backbone.rfp_forward(img, back))  # type: ignore[operator]
            weights = [self.rfp_weight(x).sigmoid() for x in after]
            outs = [w * new + (1 - w) * old for w, new, old in zip(weights, after, outs)]
        return outs
