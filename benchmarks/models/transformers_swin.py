"""transformers' Swin-T."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..built import absent, entry

ABSENT = absent("transformers")


def _build(size: tuple[int, int], **config: Any) -> nn.Module:
    from transformers import SwinConfig, SwinModel

    return SwinModel(SwinConfig(image_size=size, drop_path_rate=0.0, **config),
                     add_pooling_layer=False)


ENTRY = entry(
    "transformers_swin", _build, (224, 448),
    {"maps": [(1, 3, 30, 30)], "patch_size": 2, "embed_dim": 32, "depths": [2, 2],
     "num_heads": [2, 4], "window_size": 4}, kernels=("window_attention_",))
