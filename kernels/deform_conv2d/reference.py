"""Deformable convolution as it is defined (arXiv 1703.06211, 1811.11168), the tests' oracle."""

from __future__ import annotations

import torch
from torch import Tensor

from ..sampling import bilinear

__all__ = ["deform_conv2d_reference", "output_size"]


def output_size(hw: tuple[int, int], kernel: tuple[int, int], stride: tuple[int, int],
                padding: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a convolution's result; zero or less where the input is too small."""
    h, w = ((n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, k, s, p, d in zip(hw, kernel, stride, padding, dilation))
    return h, w


def deform_conv2d_reference(
        x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None,
        stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], groups: int,
        deform_groups: int) -> Tensor:
    """Sample the image for every tap of every output pixel, then one matrix product a group.

    Coordinates and interpolation are in float32 at least; columns are rounded to the type of the
    tensors before the product. Arguments and result as
    :func:`fastdet.kernels.deform_conv2d.deform_conv2d`, unchecked, with offset and mask of the
    size of the result.
    """
    (B, C, H, W), (O, _, kh, kw) = x.shape, weight.shape  # noqa: E741
    (oh, ow), dg, taps = offset.shape[2:], deform_groups, kh * kw
    wide = torch.promote_types(x.dtype, torch.float32)
    offset = offset.to(wide).view(B, dg, kh, kw, 2, oh, ow)
    rows, columns, down, across = (torch.arange(n, device=x.device, dtype=wide)
                                   for n in (oh, ow, kh, kw))
    y = (rows.view(-1, 1) * stride[0] - padding[0] + down.view(-1, 1, 1, 1) * dilation[0]
         + offset[:, :, :, :, 0])
    x_ = (columns * stride[1] - padding[1] + across.view(-1, 1, 1) * dilation[1]
          + offset[:, :, :, :, 1])
    maps = x.to(wide).view(B * dg, C // dg, H, W).permute(0, 2, 3, 1)
    samples = bilinear(maps, y.reshape(B * dg, taps * oh * ow), x_.reshape(B * dg, taps * oh * ow))
    if mask is not None:
        samples = samples * mask.to(wide).reshape(B * dg, -1, 1)
    samples = samples.to(x.dtype).view(B, dg, taps, oh * ow, C // dg).permute(0, 1, 4, 2, 3)
    samples = samples.reshape(B, groups, C // groups * taps, oh * ow)
    out = (weight.view(groups, O // groups, -1) @ samples).reshape(B, O, oh, ow)
    return out if bias is None else out + bias.view(-1, 1, 1)
