"""DropBlock (arXiv 1810.12890): drops features in blocks, because neighbours tell the same."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import PLUGIN_LAYERS

__all__ = ["DropBlock"]

#: Keeps the divisor from zero where every feature is dropped.
EPS = 1e-6


@PLUGIN_LAYERS.register_module()
class DropBlock(nn.Module):
    """In training, sets squares of random features to zero and scales the others up.

    Args:
        drop_prob: share of the features to drop.
        block_size: odd side of a square.
        warmup_iters: forward passes in training over which the share rises from nothing.
        kwargs: not used; what plugins are given besides.

    Raises:
        ValueError: ``block_size`` is even, ``drop_prob`` is not in (0, 1], or
            ``warmup_iters`` is negative.
    """

    def __init__(self, drop_prob: float, block_size: int, warmup_iters: int = 2000,
                 **kwargs: Any) -> None:
        super().__init__()
        if block_size % 2 != 1 or block_size < 1:
            raise ValueError(f"DropBlock: block_size must be odd, got {block_size}")
        if not 0 < drop_prob <= 1:
            raise ValueError(f"DropBlock: drop_prob must be above 0 and at most 1, got {drop_prob}")
        if warmup_iters < 0:
            raise ValueError(f"DropBlock: warmup_iters must not be negative, got {warmup_iters}")
        self.drop_prob = drop_prob
        self.block_size = block_size
        self.warmup_iters = warmup_iters
        self.iter_cnt = 0

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, C, H, W)``, in evaluation unchanged.

        Raises:
            ValueError: the map is smaller than a block.
        """
        if not self.training:
            return x
        self.iter_cnt += 1
        b, c, *size = x.shape
        centres = [side - self.block_size + 1 for side in size]
        if min(centres) < 1:
            raise ValueError(f"DropBlock: the map {size} is smaller than a block of "
                             f"{self.block_size}")
        dropped = torch.bernoulli(x.new_full((b, c, *centres), self._gamma(size, centres)))
        reach = self.block_size // 2
        dropped = F.max_pool2d(F.pad(dropped, [reach] * 4), self.block_size, stride=1,
                               padding=reach)
        kept = 1 - dropped
        return x * kept * kept.numel() / (EPS + kept.sum())

    def _gamma(self, size: list[int], centres: list[int]) -> float:
        """The probability of a centre that drops ``drop_prob`` of the features (eq. 1)."""
        gamma = self.drop_prob * size[0] * size[1] / (
            centres[0] * centres[1] * self.block_size ** 2)
        return gamma * min(self.iter_cnt / max(self.warmup_iters, 1), 1.0)

    def extra_repr(self) -> str:
        """What it was made with."""
        return (f"drop_prob={self.drop_prob}, block_size={self.block_size}, "
                f"warmup_iters={self.warmup_iters}")
