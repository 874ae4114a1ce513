"""timm's ResNet-50 for inference, its batch norms folded and its weights channels last."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..built import absent, entry

ABSENT = absent("timm")


def _build(size: tuple[int, int], layers: tuple[int, ...] = (3, 4, 6, 3), **config: Any
           ) -> nn.Module:
    from timm.models.resnet import Bottleneck, ResNet

    block: Any = Bottleneck
    return ResNet(block, layers, **config)


ENTRY = entry("timm_resnet", _build, (320, 480),
              {"maps": [(1, 3, 32, 48)], "layers": (1, 1, 1, 1), "num_classes": 3}, fold=True)
