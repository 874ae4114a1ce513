"""Global context block (GCNet, `arXiv 1904.11492 <https://arxiv.org/abs/1904.11492>`_)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastdet.runner.weight_init import constant_init, kaiming_init

from .registry import PLUGIN_LAYERS

__all__ = ["ContextBlock"]


@PLUGIN_LAYERS.register_module()
class ContextBlock(nn.Module):
    """One context vector per image, transformed and added to or multiplied into every pixel.

    Args:
        in_channels: channels of the input, ``C``.
        ratio: the transforms have ``int(C * ratio)`` hidden channels.
        pooling_type: ``'att'`` pools with learnt weights, ``'avg'`` takes the mean.
        fusion_types: ``'channel_add'``, ``'channel_mul'`` or both; the product comes first.

    Raises:
        ValueError: ``pooling_type`` or a fusion type is unknown, or no fusion type is given.
        TypeError: ``fusion_types`` is not a list or tuple.
    """

    _abbr_ = "context_block"

    def __init__(self, in_channels: int, ratio: float, pooling_type: str = "att",
                 fusion_types: Sequence[str] = ("channel_add",)) -> None:
        super().__init__()
        if pooling_type not in ("att", "avg"):
            raise ValueError(f"pooling_type must be 'att' or 'avg', got {pooling_type!r}")
        if not isinstance(fusion_types, (list, tuple)):
            raise TypeError("fusion_types must be a list or tuple, "
                            f"got {type(fusion_types).__name__}: {fusion_types!r}")
        if not fusion_types or not set(fusion_types) <= {"channel_add", "channel_mul"}:
            raise ValueError("fusion_types must hold 'channel_add', 'channel_mul' or both, "
                             f"got {fusion_types!r}")
        self.in_channels = in_channels
        self.ratio = ratio
        self.planes = int(in_channels * ratio)
        self.pooling_type = pooling_type
        self.fusion_types = fusion_types
        if pooling_type == "att":
            self.conv_mask = nn.Conv2d(in_channels, 1, kernel_size=1)
            self.softmax = nn.Softmax(dim=2)
        else:
            self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.channel_add_conv = self._transform() if "channel_add" in fusion_types else None
        self.channel_mul_conv = self._transform() if "channel_mul" in fusion_types else None
        self.reset_parameters()

    def _transform(self) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(self.in_channels, self.planes, kernel_size=1),
            nn.LayerNorm([self.planes, 1, 1]),
            nn.ReLU(inplace=True),
            nn.Conv2d(self.planes, self.in_channels, kernel_size=1))

    def reset_parameters(self) -> None:
        """Initialise the pooling weights, and zero the last layer of each transform."""
        if self.pooling_type == "att":
            kaiming_init(self.conv_mask, mode="fan_in")
        for transform in (self.channel_add_conv, self.channel_mul_conv):
            if transform is not None:
                constant_init(transform[-1], val=0)

    def spatial_pool(self, x: Tensor) -> Tensor:
        """Pool ``x`` ``(B, C, H, W)`` to ``(B, C, 1, 1)``."""
        if self.pooling_type == "avg":
            return self.avg_pool(x)
        # Before the mask: autograd then adds the gradients of x in MMDetection's order.
        values = x.flatten(2).unsqueeze(1)
        weight = self.softmax(self.conv_mask(x).flatten(2))
        return torch.matmul(values, weight.unsqueeze(3)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Fuse the context into ``x`` ``(B, C, H, W)``; the shape stays."""
        context = self.spatial_pool(x)
        out = x
        if self.channel_mul_conv is not None:
            out = out * torch.sigmoid(self.channel_mul_conv(context))
        if self.channel_add_conv is not None:
            out = out + self.channel_add_conv(context)
        return out
