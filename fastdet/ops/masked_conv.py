"""Convolution at chosen places (Guided Anchoring, arXiv 1901.03278)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

__all__ = ["MaskedConv2d", "masked_conv2d"]


def masked_conv2d(features: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None,
                  padding: int | tuple[int, int] = 0, stride: int | tuple[int, int] = 1) -> Tensor:
    """Convolve one image where a mask is positive; the result is zero elsewhere.

    It is for inference, as in mmcv: nothing gets a gradient.

    Args:
        features: ``(1, C, H, W)``.
        mask: ``(1, H', W')`` or ``(1, 1, H', W')``, of the size of the result.
        weight: ``(O, C, kH, kW)``.
        bias: ``(O,)``.
        padding: zeros around the image.
        stride: must be 1.

    Returns:
        ``(1, O, H', W')``.

    Raises:
        ValueError: more than one image, a stride, or a mask of another size.
    """
    if mask.dim() not in (3, 4) or mask.shape[0] != 1 or features.dim() != 4 or \
            features.shape[0] != 1 or mask[0].numel() != mask.shape[-1] * mask.shape[-2]:
        raise ValueError("masked_conv2d takes one image (1, C, H, W) and its mask (1, H, W), got "
                         f"{tuple(features.shape)} and {tuple(mask.shape)}")
    if _pair(stride) != (1, 1):
        raise ValueError(f"masked_conv2d takes a stride of 1, got {stride!r}")
    pad_h, pad_w = _pair(padding)
    out_channels, _, kernel_h, kernel_w = weight.shape
    size = (features.shape[2] + 2 * pad_h - kernel_h + 1,
            features.shape[3] + 2 * pad_w - kernel_w + 1)
    if tuple(mask.shape[-2:]) != size:
        raise ValueError(f"masked_conv2d: mask must be of the size of the result, {size}, got "
                         f"{tuple(mask.shape[-2:])}")
    with torch.no_grad():
        y, x = (mask.reshape(size) > 0).nonzero(as_tuple=True)
        out = features.new_zeros(1, out_channels, *size)
        if len(y):
            padded = F.pad(features[0], (pad_w, pad_w, pad_h, pad_h))
            # [C, kH, kW, n]: the windows of the chosen places alone.
            rows = y + torch.arange(kernel_h, device=y.device)[:, None, None]
            columns = x + torch.arange(kernel_w, device=x.device)[:, None]
            columns_of = padded[:, rows, columns].flatten(0, 2)
            value = weight.flatten(1) @ columns_of
            out[0][:, y, x] = value if bias is None else value + bias[:, None]
        return out


class MaskedConv2d(nn.Conv2d):
    """A convolution that, given a mask, computes the result only where the mask is positive.

    Takes the arguments of ``Conv2d``; with a mask, stride, dilation and groups must be 1.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int],
                 stride: int = 1, padding: int = 0, dilation: int = 1, groups: int = 1,
                 bias: bool = True) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups,
                         bias)

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Convolve ``input`` ``(B, C, H, W)``; with a mask, as :func:`masked_conv2d`."""
        if mask is None:
            return super().forward(input)
        if self.dilation != (1, 1) or self.groups != 1:
            raise ValueError("MaskedConv2d: with a mask, dilation and groups must be 1, got "
                             f"dilation={self.dilation}, groups={self.groups}")
        return masked_conv2d(input, mask, self.weight, self.bias, _pair(self.padding),
                             _pair(self.stride))
