"""Adaptive average pooling under the names of ``mmdet.models.utils``.

MMDetection wraps it because torch once refused empty batches. Today's torch takes them.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AdaptiveAvgPool2d", "adaptive_avg_pool2d"]


def adaptive_avg_pool2d(input: Tensor, output_size: int | tuple[int, int]) -> Tensor:
    """Average a map over a grid of cells.

    Args:
        input: ``(N, C, H, W)``; ``N`` may be 0.
        output_size: ``(h, w)`` of the grid, or one number for both.

    Returns:
        ``(N, C, h, w)``.
    """
    return F.adaptive_avg_pool2d(input, output_size)


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """Average a map over a grid of cells; the batch may be empty.

    Args:
        output_size: ``(h, w)`` of the grid, or one number for both; ``None`` keeps a side.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Average ``x`` ``(N, C, H, W)`` over the grid."""
        return super().forward(x)
