"""Merging of tokens and layer normalisation in plain torch: the definition, and the CPU path."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ..add_layer_norm.reference import add_layer_norm_reference

__all__ = ["merge_layer_norm_reference", "merge_windows"]


def merge_windows(x: Tensor, window: tuple[int, int]) -> Tensor:
    """The tokens of windows that tile a map, as one each: what ``nn.Unfold`` gives, in one copy.

    Args:
        x: [B, H, W, C], H and W whole windows.
        window: its height and width.

    Returns:
        [B, windows, C * height * width], windows row by row; channel slowest, then the row and the
        column inside the window.
    """
    (b, height, width, c), (kh, kw) = x.shape, window
    x = x.reshape(b, height // kh, kh, width // kw, kw, c).permute(0, 1, 3, 5, 2, 4)
    return x.reshape(b, (height // kh) * (width // kw), c * kh * kw)


def merge_layer_norm_reference(x: Tensor, hw: tuple[int, int], weight: Tensor, bias: Tensor,
                               eps: float, dtype: torch.dtype) -> Tensor:
    """The layer normalisation of each 2 x 2 tokens as one.

    Args:
        x: [B, H * W, C]; an odd last row or column has zeros beside it.
        hw: (H, W).
        weight: [4 * C].
        bias: [4 * C].
        eps: added to the variance.
        dtype: of the result.

    Returns:
        [B, ceil(H / 2) * ceil(W / 2), 4 * C].
    """
    height, width = hw
    x = x.reshape(x.shape[0], height, width, x.shape[2])
    if height % 2 or width % 2:
        x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
    return add_layer_norm_reference(merge_windows(x, (2, 2)), None, weight, bias, eps, None,
                                    dtype)[1]
