"""DetectoRS's ResNeXt (Qiao et al., https://arxiv.org/abs/2006.02334)."""

from __future__ import annotations

from typing import Any, ClassVar

from ..builder import BACKBONES
from . import detectors_resnet, resnext

__all__ = ["Bottleneck", "DetectoRS_ResNeXt"]


class Bottleneck(resnext.Bottleneck, detectors_resnet.Bottleneck):
    """DetectoRS's bottleneck with the groups of ResNeXt's; it takes the arguments of both."""


@BACKBONES.register_module()
class DetectoRS_ResNeXt(resnext.ResNeXt, detectors_resnet.DetectoRS_ResNet):
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
        super().__init__(groups=groups, base_width=base_width, **kwargs)
