"""CARAFE in plain torch: the definition, the CPU path and the oracle of the tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def normalized_masks(masks: Tensor, kernel_size: int, group_size: int, scale_factor: int) -> Tensor:
    """Raw weights [B, G k^2 s^2, H, W] to reassembly kernels [B, G k^2, s H, s W] of sum one."""
    masks = F.pixel_shuffle(masks, scale_factor)
    b, _, h, w = masks.shape
    return masks.view(b, group_size, kernel_size**2, h, w).softmax(2).view(b, -1, h, w)


def carafe_reference(features: Tensor, masks: Tensor, kernel_size: int, group_size: int,
                     scale_factor: int, normalize: bool = False) -> Tensor:
    """Weighted sum of the k x k neighbourhood of each source pixel (arXiv 1905.02188, eq. 2).

    One multiply-add over the result per tap: nothing of size k^2 C H W is made.

    Args:
        features: [B, C, H, W].
        masks: [B, G k^2, s H, s W]; with ``normalize`` [B, G k^2 s^2, H, W], before the pixel
            shuffle and the softmax over the k^2 weights.
        kernel_size: k, odd.
        group_size: G groups of C / G channels that share their weights.
        scale_factor: s.
        normalize: apply the pixel shuffle and the softmax first.

    Returns:
        [B, C, s H, s W].
    """
    if normalize:
        masks = normalized_masks(masks, kernel_size, group_size, scale_factor)
    b, c, h, w = features.shape
    k, g, s = kernel_size, group_size, scale_factor
    weights = masks.view(b, g, 1, k * k, h, s, w, s)
    around = F.pad(features, (k // 2,) * 4).view(b, g, c // g, h + k - 1, 1, w + k - 1, 1)
    out = weights[:, :, :, 0] * around[:, :, :, :h, :, :w]
    for tap in range(1, k * k):
        y, x = divmod(tap, k)
        out = torch.addcmul(out, weights[:, :, :, tap], around[:, :, :, y:y + h, :, x:x + w])
    return out.reshape(b, c, h * s, w * s)
