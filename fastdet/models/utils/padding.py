"""Where a padded batch has no image."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

__all__ = ["padding_mask"]


def padding_mask(x: Tensor, img_metas: list[dict[str, Any]]) -> Tensor:
    """True where a place of a feature map lies on padding, by the nearest pixel.

    Args:
        x: [B, C, h, w]; only its shape and device are read.
        img_metas: ``batch_input_shape`` and ``img_shape`` are read.

    Returns:
        [B, h, w], bool.
    """
    height, width = img_metas[0]["batch_input_shape"]
    mask = x.new_ones((len(img_metas), 1, height, width))
    for i, meta in enumerate(img_metas):
        h, w = meta["img_shape"][:2]
        mask[i, :, :h, :w] = 0
    return F.interpolate(mask, size=x.shape[-2:])[:, 0].bool()
