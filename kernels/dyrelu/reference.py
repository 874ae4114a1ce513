"""Dynamic ReLU in plain torch: the definition, the CPU path and the oracle of the tests."""

from __future__ import annotations

import torch
from torch import Tensor


def dyrelu_reference(x: Tensor, coeffs: Tensor) -> Tensor:
    """max(a1 x + b1, a2 x + b2) per image and channel; a tie shares the gradient.

    Args:
        x: [B, C, H, W].
        coeffs: [B, 4C] in [0, 1]: a1, b1, a2 and b2 of all channels, each centred by -0.5, and the
            slopes then spread to 2 a1 + 1 and 2 a2.

    Returns:
        [B, C, H, W].
    """
    a1, b1, a2, b2 = (coeffs - 0.5)[:, :, None, None].chunk(4, 1)
    return torch.maximum(x * (a1 * 2 + 1) + b1, x * (a2 * 2) + b2)
