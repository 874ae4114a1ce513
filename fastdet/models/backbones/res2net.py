"""Res2Net (Gao et al., https://arxiv.org/abs/1904.01169)."""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastdet.cnn import build_conv_layer, build_norm_layer
from fastdet.runner import Sequential
from fastdet.utils.types import Cfg, InitCfg

from ..builder import BACKBONES
from ..utils import ResLayer
from .resnet import Bottleneck as _Bottleneck
from .resnet import ResNet

__all__ = ["Bottle2neck", "Res2Layer", "Res2Net"]



class Bottle2neck(_Bottleneck):
    """Bottleneck whose 3x3 convolution is a chain of narrow ones, each fed by the one before.

    Args:
        inplanes: channels of the input.
        planes: base width.
        scales: number of slices that the channels are cut into; one slice has no convolution.
        base_width: channels of a slice in the first stage.
        base_channels: base width of the first stage.
        stage_type: ``'stage'`` for the first block of a stage, whose slices are independent;
            else ``'normal'``.
        **kwargs: the other arguments of ResNet's bottleneck.

    Raises:
        ValueError: ``scales`` is less than two, or ``stage_type`` unknown.
    """

    expansion = 4
    dcn_may_fall_back = False

    def __init__(self, inplanes: int, planes: int, scales: int = 4, base_width: int = 26,
                 base_channels: int = 64, stage_type: str = "normal", **kwargs: Any) -> None:
        if scales < 2:
            raise ValueError(f"Res2Net needs at least two scales, got {scales}")
        if stage_type not in ("normal", "stage"):
            raise ValueError(f"stage_type must be 'normal' or 'stage', got {stage_type!r}")
        width = math.floor(planes * (base_width / base_channels))
        super().__init__(inplanes, planes, width=width * scales, **kwargs)
        self.stage_type = stage_type
        self.scales = scales
        self.width = width
        self.pool = nn.AvgPool2d(3, stride=self.conv2_stride, padding=1) \
            if stage_type == "stage" and self.conv2_stride != 1 else None
        cfg = self._conv2_cfg()
        self.convs = nn.ModuleList([
            build_conv_layer(cfg, width, width, 3, stride=self.conv2_stride,
                             padding=self.dilation, dilation=self.dilation, bias=False)
            for _ in range(scales - 1)])
        self.bns = nn.ModuleList([
            build_norm_layer(self.norm_cfg, width, postfix=i + 1)[1] for i in range(scales - 1)])

    def _add_conv2(self, width: int, groups: int) -> None:
        """Nothing here: the chain stands behind everything else in MMDetection's state dict."""

    def _forward_conv2(self, x: Tensor) -> Tensor:
        slices = x.split(self.width, dim=1)
        outs: list[Tensor] = []
        for part, conv, bn in zip(slices, self.convs, self.bns):
            if outs and self.stage_type == "normal":
                part = part + outs[-1]
            outs.append(self.relu(bn(conv(part))))
        outs.append(slices[-1] if self.pool is None else self.pool(slices[-1]))
        return torch.cat(outs, dim=1)


class Res2Layer(ResLayer):
    """One stage of a Res2Net.

    Args:
        block: class of the blocks.
        inplanes: channels of the input.
        planes: base width; the stage returns ``planes * block.expansion`` channels.
        num_blocks: number of blocks.
        stride: stride of the first block.
        avg_down: not used; the identity branch always pools, as MMDetection's does.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        scales: number of slices in a block.
        base_width: channels of a slice in the first stage.
        **kwargs: further arguments of every block.
    """

    def __init__(self, block: type[nn.Module], inplanes: int, planes: int, num_blocks: int,
                 stride: int = 1, avg_down: bool = True, conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN"},
                 scales: int = 4, base_width: int = 26, **kwargs: Any) -> None:
        self.first_block_args = {"stage_type": "stage"}
        super().__init__(block, inplanes, planes, num_blocks, stride, True, conv_cfg, norm_cfg,
                         scales=scales, base_width=base_width, **kwargs)


@BACKBONES.register_module()
class Res2Net(ResNet):
    """Res2Net backbone.

    Args:
        scales: number of slices in a block.
        base_width: channels of a slice in the first stage.
        style: always ``'pytorch'``, as in MMDetection; another value warns.
        deep_stem: always true, as in MMDetection; another value warns.
        avg_down: always true, as in MMDetection; another value warns.
        pretrained: deprecated; use ``init_cfg=dict(type='Pretrained', checkpoint=...)``.
        init_cfg: the initialiser's config.
        **kwargs: the other arguments of :class:`ResNet`; ``depth`` is one of 50, 101 and 152.

    Example:
        >>> import torch
        >>> self = Res2Net(depth=50, scales=4, base_width=26).eval()
        >>> [tuple(out.shape) for out in self(torch.rand(1, 3, 32, 32))]
        [(1, 256, 8, 8), (1, 512, 4, 4), (1, 1024, 2, 2), (1, 2048, 1, 1)]
    """

    arch_settings: ClassVar[dict[Any, Any]] = {
        50: (Bottle2neck, (3, 4, 6, 3)),
        101: (Bottle2neck, (3, 4, 23, 3)),
        152: (Bottle2neck, (3, 8, 36, 3)),
    }

    def __init__(self, scales: int = 4, base_width: int = 26, style: str = "pytorch",
                 deep_stem: bool = True, avg_down: bool = True, pretrained: str | None = None,
                 init_cfg: InitCfg = None, **kwargs: Any) -> None:
        if (style, deep_stem, avg_down) != ("pytorch", True, True):
            warnings.warn("Res2Net always has style='pytorch', deep_stem=True and avg_down=True; "
                          f"style={style!r}, deep_stem={deep_stem!r} and avg_down={avg_down!r} "
                          "are not followed", stacklevel=2)
        self.scales = scales
        self.base_width = base_width
        super().__init__(style="pytorch", deep_stem=True, avg_down=True, pretrained=pretrained,
                         init_cfg=init_cfg, **kwargs)

    def make_res_layer(self, **kwargs: Any) -> Sequential:
        """Build one stage; the arguments are those of :class:`Res2Layer`."""
        return Res2Layer(scales=self.scales, base_width=self.base_width,
                         base_channels=self.base_channels, **kwargs)
