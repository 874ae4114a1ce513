"""TensorFlow's "same" padding."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .registry import CONV_LAYERS

__all__ = ["Conv2dAdaptivePadding"]


@CONV_LAYERS.register_module()
class Conv2dAdaptivePadding(nn.Conv2d):
    """A convolution that pads so that its result has ``ceil(size / stride)`` pixels a side.

    An odd pixel of padding goes right and below, as in TensorFlow.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        kernel_size: side or sides of the kernel.
        stride: step of the kernel.
        padding: not used; the padding follows from the input's size.
        dilation: spacing of the kernel's taps.
        groups: groups of channels.
        bias: add a bias.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int],
                 stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] = 0,
                 dilation: int | tuple[int, int] = 1, groups: int = 1, bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, 0, dilation, groups, bias)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` ``(B, C, H, W)``."""
        top, bottom = self._pad(x.shape[-2], 0)
        left, right = self._pad(x.shape[-1], 1)
        if top == bottom and left == right:
            return F.conv2d(x, self.weight, self.bias, self.stride, (top, left), self.dilation,
                            self.groups)
        return super().forward(F.pad(x, (left, right, top, bottom)))

    def _pad(self, size: int, axis: int) -> tuple[int, int]:
        """Padding before and after an axis of ``size`` pixels."""
        stride, span = self.stride[axis], (self.kernel_size[axis] - 1) * self.dilation[axis] + 1
        total = max(((size + stride - 1) // stride - 1) * stride + span - size, 0)
        return total // 2, total - total // 2
