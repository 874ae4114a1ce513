"""timm's Swin-T."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..built import absent, entry

ABSENT = absent("timm")


def _build(size: tuple[int, int], **config: Any) -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(img_size=size, num_classes=0, drop_path_rate=0.0,
                           **{"window_size": 7, **config})


ENTRY = entry(
    "timm_swin", _build, (224, 448),
    {"maps": [(1, 3, 32, 32)], "embed_dim": 32, "depths": (2, 2), "num_heads": (2, 4),
     "window_size": 4}, kernels=("window_attention_",))
