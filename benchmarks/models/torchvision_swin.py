"""torchvision's Swin-T."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..built import absent, entry

ABSENT = absent()
_SWIN_T = {"patch_size": [4, 4], "embed_dim": 96, "depths": [2, 2, 6, 2],
           "num_heads": [3, 6, 12, 24], "window_size": [7, 7]}


def _build(size: tuple[int, int], **config: Any) -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer(stochastic_depth_prob=0.0, **{**_SWIN_T, **config})


ENTRY = entry(
    "torchvision_swin", _build, (224, 448),
    {"maps": [(1, 3, 30, 30)], "patch_size": [2, 2], "embed_dim": 32, "depths": [2, 2],
     "num_heads": [2, 4], "window_size": [4, 4], "num_classes": 3}, kernels=("window_attention_",))
