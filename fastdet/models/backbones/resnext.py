"""ResNeXt (Xie et al., https://arxiv.org/abs/1611.05431)."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import nn

from ..builder import BACKBONES
from .resnet import Bottleneck as _Bottleneck
from .resnet import ResNet

__all__ = ["Bottleneck", "ResNeXt", "grouped_width"]


def grouped_width(planes: int, groups: int, base_width: int, base_channels: int) -> int:
    """Channels of a bottleneck's grouped 3x3 convolution.

    Args:
        planes: base width of the stage.
        groups: number of groups; with one group the width is ``planes``.
        base_width: channels of one group in the first stage.
        base_channels: base width of the first stage.
    """
    if groups == 1:
        return planes
    return math.floor(planes * (base_width / base_channels)) * groups


class Bottleneck(_Bottleneck):
    """Bottleneck whose 3x3 convolution has groups.

    Args:
        inplanes: channels of the input.
        planes: base width.
        groups: groups of the 3x3 convolution.
        base_width: channels of one group in the first stage.
        base_channels: base width of the first stage.
        **kwargs: the other arguments of ResNet's bottleneck.
    """

    expansion = 4
    dcn_may_fall_back = False

    def __init__(self, inplanes: int, planes: int, groups: int = 1, base_width: int = 4,
                 base_channels: int = 64, **kwargs: Any) -> None:
        width = grouped_width(planes, groups, base_width, base_channels)
        super().__init__(inplanes, planes, width=width, groups=groups, **kwargs)


@BACKBONES.register_module()
class ResNeXt(ResNet):
    """ResNeXt backbone.

    Args:
        groups: groups of the 3x3 convolutions.
        base_width: channels of one group in the first stage.
        **kwargs: the arguments of :class:`ResNet`; ``depth`` is one of 50, 101 and 152.
    """

    arch_settings: ClassVar[dict[Any, Any]] = {
        50: (Bottleneck, (3, 4, 6, 3)),
        101: (Bottleneck, (3, 4, 23, 3)),
        152: (Bottleneck, (3, 8, 36, 3)),
    }

    def __init__(self, groups: int = 1, base_width: int = 4, **kwargs: Any) -> None:
        self.groups = groups
        self.base_width = base_width
        super().__init__(**kwargs)

    def make_res_layer(self, **kwargs: Any) -> nn.Module:
        """Build one stage; the arguments are those of :class:`ResLayer`."""
        return super().make_res_layer(groups=self.groups, base_width=self.base_width,
                                      base_channels=self.base_channels, **kwargs)
