"""Switchable atrous convolution of DetectoRS (`arXiv 2006.02334 <https://arxiv.org/abs/2006.02334>`_)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import CONV_LAYERS, ConvAWS2d, constant_init
from fastdet.utils.types import Size

from .deform_conv import deform_conv2d

__all__ = ["SAConv2d"]


@CONV_LAYERS.register_module("SAC")
class SAConv2d(ConvAWS2d):
    """Two convolutions of one input, with dilation ``d`` and ``3 * d``, blended by a switch.

    ``switch(x) * conv(x, w, d) + (1 - switch(x)) * conv(x, w + weight_diff, 3 * d)`` for a
    standardised weight ``w``, between two layers that add the global context. At first it is the
    convolution of dilation ``d``.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        kernel_size: side or sides of the kernel; 3 with ``use_deform``.
        stride: step of the kernel.
        padding: zeros around the input; tripled for the second convolution.
        dilation: spacing of the kernel's taps; tripled for the second convolution.
        groups: groups of channels.
        bias: have a bias. It is part of the state and has no effect, as in mmcv.
        use_deform: make both convolutions deformable.

    Raises:
        ValueError: ``use_deform`` with a kernel that is not 3 x 3.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1,
                 padding: Size = 0, dilation: Size = 1, groups: int = 1, bias: bool = True,
                 use_deform: bool = False) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups,
                         bias)
        if use_deform and self.kernel_size != (3, 3):
            raise ValueError("SAConv2d with use_deform takes a kernel of 3 x 3, got "
                             f"kernel_size={kernel_size}")
        self.use_deform = use_deform
        self.switch = nn.Conv2d(in_channels, 1, 1, stride)
        self.weight_diff = nn.Parameter(torch.empty_like(self.weight))
        self.pre_context = nn.Conv2d(in_channels, in_channels, 1)
        self.post_context = nn.Conv2d(out_channels, out_channels, 1)
        if use_deform:
            self.offset_s = nn.Conv2d(in_channels, 18, 3, stride, 1)
            self.offset_l = nn.Conv2d(in_channels, 18, 3, stride, 1)
        self.init_weights()

    def init_weights(self) -> None:
        """Zero all but the switch's bias, which is one."""
        constant_init(self.switch, 0, bias=1)
        nn.init.zeros_(self.weight_diff)
        constant_init(self.pre_context, 0)
        constant_init(self.post_context, 0)
        if self.use_deform:
            constant_init(self.offset_s, 0)
            constant_init(self.offset_l, 0)

    def _atrous(self, x: Tensor, weight: Tensor, offset: Tensor | None, factor: int) -> Tensor:
        padding = (factor * int(self.padding[0]), factor * int(self.padding[1]))
        dilation = (factor * self.dilation[0], factor * self.dilation[1])
        if offset is None:
            return F.conv2d(x, weight, None, self.stride, padding, dilation, self.groups)
        return deform_conv2d(x, offset, weight, (self.stride[0], self.stride[1]), padding, dilation,
                             self.groups)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` ``(B, C, H, W)``, at least three pixels a side."""
        x = x + self.pre_context(F.adaptive_avg_pool2d(x, 1))
        around = F.avg_pool2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), 5, 1)
        switch = self.switch(around)
        small = self.offset_s(around) if self.use_deform else None
        large = self.offset_l(around) if self.use_deform else None
        weight = self._get_weight(self.weight)
        out = (switch * self._atrous(x, weight, small, 1)
               + (1 - switch) * self._atrous(x, weight + self.weight_diff, large, 3))
        return out + self.post_context(F.adaptive_avg_pool2d(out, 1))
