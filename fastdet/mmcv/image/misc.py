"""Batches of tensors to images, as in ``mmcv.image.misc``."""

from __future__ import annotations

import numpy as np
import torch

from .photometric import imdenormalize

__all__ = ["tensor2imgs"]


def tensor2imgs(tensor: torch.Tensor, mean: tuple[float, ...] | None = None,
                std: tuple[float, ...] | None = None, to_rgb: bool = True) -> list[np.ndarray]:
    """Undo the normalisation of a batch.

    Args:
        tensor: ``[N, C, H, W]``, ``C`` 1 or 3.
        mean, std: what it was normalised by; 0 and 1 by default.
        to_rgb: whether it had been turned into RGB, so that it is turned back to BGR.

    Returns:
        ``N`` contiguous uint8 images ``[H, W, C]``.
    """
    if not torch.is_tensor(tensor) or tensor.ndim != 4 or tensor.size(1) not in (1, 3):
        shape = tuple(tensor.shape) if torch.is_tensor(tensor) else type(tensor).__name__
        raise ValueError(f"tensor2imgs takes a tensor [N, 1 or 3, H, W], got {shape}")
    channels = tensor.size(1)
    mean = (0,) * channels if mean is None else mean
    std = (1,) * channels if std is None else std
    if len(mean) != channels or len(std) != channels or (channels == 1 and to_rgb):
        raise ValueError(f"mean, std and to_rgb must fit {channels} channels, "
                         f"got mean={mean}, std={std}, to_rgb={to_rgb}")
    mean_, std_ = np.array(mean), np.array(std)
    return [np.ascontiguousarray(
        imdenormalize(img.transpose(1, 2, 0), mean_, std_, to_bgr=to_rgb).astype(np.uint8))
        for img in tensor.cpu().numpy()]
