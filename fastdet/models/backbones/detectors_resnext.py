"""DetectoRS's ResNeXt (Qiao et al., https://arxiv.org/abs/2006.02334)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from ..builder import BACKBONES
from .detectors_resnet import Bottleneck as _Bottleneck
from .detectors_resnet import DetectoRS_ResNet
from .resnext import grouped_width

__all__ = ["Bottleneck", "DetectoRS_ResNeXt"]


class Bottleneck(_Bottleneck):
    """DetectoRS's bottleneck with groups in the 3x3 convolution.

    Args:
        inplanes: channels of the input.
        planes: base width.
        groups: groups of the 3x3 convolution.
        base_width: channels of one group in the first stage.
        base_channels: base width of the first stage.
        **kwargs: the other arguments of DetectoRS's bottleneck.
    """

    expansion = 4
    dcn_may_fall_back = False

    def __init__(self, inplanes: int, planes: int, groups: int = 1, base_width: int = 4,
                 base_channels: int = 64, **kwargs: Any) -> None:
        width = grouped_width(planes, groups, base_width, base_channels)
        super().__init__(inplanes, planes, width=width, groups=groups, **kwargs)


@BACKBONES.register_module()
class DetectoRS_ResNeXt(DetectoRS_ResNet):
    """ResNeXt backbone of DetectoRS.

    Args:
        groups: groups of the 3x3 convolutions.
        base_width: channels of one group in the first stage.
        **kwargs: the arguments of :class:`DetectoRS_ResNet`.
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
        """Build one stage; the arguments are those of DetectoRS's ``ResLayer``."""
        return super().make_res_layer(groups=self.groups, base_width=self.base_width,
                                      base_channels=self.base_channels, **kwargs)
