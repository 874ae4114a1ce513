"""Modulated deformable convolution (`arXiv 1811.11168 <https://arxiv.org/abs/1811.11168>`_)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from fastdet.cnn import CONV_LAYERS, constant_init
from fastdet.kernels.deform_conv2d import deform_conv2d as _operator
from fastdet.utils.types import Size

from .deform_conv import DeformConvBase, accept_deformable_groups

__all__ = ["ModulatedDeformConv2d", "ModulatedDeformConv2dPack", "modulated_deform_conv2d"]


def modulated_deform_conv2d(input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor,
                            bias: Tensor | None = None, stride: Size = 1, padding: Size = 0,
                            dilation: Size = 1, groups: int = 1,
                            deform_groups: int = 1) -> Tensor:
    """Convolve with every tap shifted by an offset and weighted by a factor of its own.

    All are cast to the type of ``offset``, and so is the result. Offsets and mask of a map larger
    than the result are read as mmcv reads them, and as DyHead relies on it: from the flat
    beginning of each image's numbers.

    Args:
        input: ``(B, C, H, W)``.
        offset: ``(B, deform_groups * 2 * kH * kW, H', W')`` in pixels, ``(dy, dx)`` of one tap
            after the other; ``H'`` and ``W'`` are the size of the result, or both are larger.
        mask: ``(B, deform_groups * kH * kW, H', W')``.
        weight: ``(O, C / groups, kH, kW)``.
        bias: ``(O,)``.
        stride: step of the kernel.
        padding: zeros around the input.
        dilation: spacing of the kernel's taps.
        groups: groups of channels.
        deform_groups: groups of input channels with offsets and factors of their own.

    Returns:
        ``(B, O, H', W')``.

    Raises:
        ValueError: a shape does not fit.
    """
    return _operator(input, offset, weight, mask=mask, bias=bias, stride=_pair(stride),
                     padding=_pair(padding), dilation=_pair(dilation), groups=groups,
                     deform_groups=deform_groups)


class ModulatedDeformConv2d(DeformConvBase):
    """Modulated deformable convolution whose offsets and mask the caller gives.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        kernel_size: side or sides of the kernel.
        stride: step of the kernel.
        padding: zeros around the input.
        dilation: spacing of the kernel's taps.
        groups: groups of channels.
        deform_groups: groups of input channels with offsets and factors of their own;
            ``deformable_groups`` is its old name.
        bias: add a bias.

    Raises:
        ValueError: channels do not divide into the groups.
    """

    bias: nn.Parameter | None

    @accept_deformable_groups
    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1,
                 padding: Size = 0, dilation: Size = 1, groups: int = 1, deform_groups: int = 1,
                 bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups,
                         deform_groups)
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels))
        else:
            self.register_parameter("bias", None)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weight uniformly below ``1 / sqrt(in_channels * kH * kW)``; bias zero."""
        bound = 1 / math.sqrt(self.in_channels * math.prod(self.kernel_size))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor) -> Tensor:
        """Convolve ``x`` ``(B, C, H, W)``, as :func:`modulated_deform_conv2d`."""
        return modulated_deform_conv2d(x, offset, mask, self.weight, self.bias, self.stride,
                                       self.padding, self.dilation, self.groups,
                                       self.deform_groups)


@CONV_LAYERS.register_module("DCNv2")
class ModulatedDeformConv2dPack(ModulatedDeformConv2d):
    """Modulated deformable convolution that predicts its own offsets and mask, by ``conv_offset``.

    At first all offsets are zero and all factors 0.5. Takes the arguments of
    :class:`ModulatedDeformConv2d`.
    """

    _version = 2

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conv_offset = self._offset_conv(3)
        self.init_weights()

    def init_weights(self) -> None:
        """As :class:`ModulatedDeformConv2d`, and ``conv_offset`` zero."""
        super().init_weights()
        if hasattr(self, "conv_offset"):
            constant_init(self.conv_offset, 0)

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Convolve ``x`` ``(B, C, H, W)``."""
        out = self.conv_offset(x)
        offset, mask = out.tensor_split((out.shape[1] // 3 * 2,), 1)
        return super().forward(x, offset, mask.sigmoid())
