"""Convolutions with a standardised weight (`arXiv 1903.10520 <https://arxiv.org/abs/1903.10520>`_)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.utils.types import Size

from .registry import CONV_LAYERS

__all__ = ["ConvAWS2d", "ConvWS2d", "conv_ws_2d"]



def conv_ws_2d(input: Tensor, weight: Tensor, bias: Tensor | None = None,
               stride: int | tuple[int, ...] = 1, padding: int | tuple[int, ...] | str = 0,
               dilation: int | tuple[int, ...] = 1, groups: int = 1, eps: float = 1e-5) -> Tensor:
    """Convolve with ``(weight - mean) / (std + eps)``, taken over each output channel.

    Args:
        input: ``(B, C, H, W)``.
        weight: ``(O, C / groups, kH, kW)``.
        bias: ``(O,)``.
        stride: step of the kernel.
        padding: zeros around the input.
        dilation: spacing of the kernel's taps.
        groups: groups of channels.
        eps: added to the standard deviation.

    Returns:
        ``(B, O, H', W')``.
    """
    std, mean = torch.std_mean(weight, dim=(1, 2, 3), keepdim=True)
    return F.conv2d(input, (weight - mean) / (std + eps), bias, stride, padding, dilation, groups)


@CONV_LAYERS.register_module("ConvWS")
class ConvWS2d(nn.Conv2d):
    """Convolution with weight standardisation.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        kernel_size: side or sides of the kernel.
        stride: step of the kernel.
        padding: zeros around the input.
        dilation: spacing of the kernel's taps.
        groups: groups of channels.
        bias: add a bias.
        eps: added to the standard deviation.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1,
                 padding: Size = 0, dilation: Size = 1, groups: int = 1, bias: bool = True,
                 eps: float = 1e-5) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups,
                         bias)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` ``(B, C, H, W)``."""
        return conv_ws_2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation,
                          self.groups, self.eps)


def _moments(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean of each output channel, ``(O, 1, 1, 1)``."""
    var, mean = torch.var_mean(weight, dim=(1, 2, 3), keepdim=True)
    return (var + 1e-5).sqrt(), mean


@CONV_LAYERS.register_module("ConvAWS")
class ConvAWS2d(nn.Conv2d):
    """Convolution whose standardised weight is scaled and shifted by two buffers.

    A checkpoint of a plain convolution sets the buffers to the standard deviation and the mean of
    its weight, so that the layer starts as that convolution. Source: DetectoRS,
    `arXiv 2006.02334 <https://arxiv.org/abs/2006.02334>`_.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        kernel_size: side or sides of the kernel.
        stride: step of the kernel.
        padding: zeros around the input.
        dilation: spacing of the kernel's taps.
        groups: groups of channels.
        bias: add a bias.
    """

    weight_gamma: Tensor
    weight_beta: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1,
                 padding: Size = 0, dilation: Size = 1, groups: int = 1,
                 bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups,
                         bias)
        self.register_buffer("weight_gamma", torch.ones(out_channels, 1, 1, 1))
        self.register_buffer("weight_beta", torch.zeros(out_channels, 1, 1, 1))

    def _get_weight(self, weight: Tensor) -> Tensor:
        std, mean = _moments(weight)
        return self.weight_gamma * ((weight - mean) / std) + self.weight_beta

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` ``(B, C, H, W)``."""
        return self._conv_forward(x, self._get_weight(self.weight), self.bias)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        gamma, beta = prefix + "weight_gamma", prefix + "weight_beta"
        if gamma not in state_dict:
            weight = state_dict.get(prefix + "weight", self.weight)
            if weight.shape == self.weight.shape:  # else the size is reported, below
                with torch.no_grad():
                    std, mean = _moments(weight.to(self.weight.dtype))
                # The caller may own the dict; torch copies it, other loaders need not.
                state_dict = {**state_dict, gamma: std, beta: mean}
        super()._load_from_state_dict(state_dict, prefix, *args)
