"""transformers' PVTv2-b0."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..built import absent, entry

ABSENT = absent("transformers")


def _build(size: tuple[int, int], **config: Any) -> nn.Module:
    from transformers import PvtV2Config, PvtV2Model

    return PvtV2Model(PvtV2Config(image_size=size, drop_path_rate=0.0, hidden_dropout_prob=0.0,
                                  **config))


ENTRY = entry(
    "transformers_pvt_v2", _build, (224, 448),
    {"maps": [(1, 3, 32, 32)], "num_encoder_blocks": 2, "depths": [1, 1], "sr_ratios": [2, 1],
     "hidden_sizes": [16, 32], "patch_sizes": [7, 3], "strides": [4, 2],
     "num_attention_heads": [1, 2], "mlp_ratios": [2, 2]},
    kernels=("spatial_reduction_attention_",))
