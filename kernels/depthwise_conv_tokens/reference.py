"""Depthwise convolution of tokens in plain torch: definition, CPU path, oracle of the tests."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def depthwise_conv_tokens_reference(x: Tensor, weight: Tensor, bias: Tensor | None,
                                    hw_shape: tuple[int, int], gelu: bool) -> Tensor:
    """``gelu(conv(x) + bias)``.

    Args:
        x: [B, H * W, C].
        weight: [C, 1, 3, 3].
        bias: [C] or ``None``.
        hw_shape: (H, W).
        gelu: whether the GELU of the error function follows.

    Returns:
        [B, H * W, C].
    """
    maps = x.transpose(1, 2).unflatten(2, hw_shape)
    # Tokens are a map that is channels last. The weight's one channel leaves its layout open, and
    # torch's CPU copies the map to the other layout and back if it is not said to be the same.
    weight = weight.to(x.dtype, memory_format=torch.channels_last)
    out = F.conv2d(maps, weight, None if bias is None else bias.to(x.dtype), padding=1,
                   groups=x.shape[2])
    out = out.flatten(2).transpose(1, 2)
    return F.gelu(out) if gelu else out
