"""Deformable convolution in plain torch, tuned: few copies, bounded memory.

A column (one tap of one output pixel) is a bag of the four pixels around its sampling point, so
that the columns of an image are one ``embedding_bag`` over its pixels, and the rest is a matrix
product. Columns are made for a few rows at a time, and again in the backward.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

__all__ = ["COLUMNS", "deform_conv2d_cpu", "result_format"]

#: Elements of the columns that are made, and kept for the backward, at a time.
COLUMNS = 1 << 23


def result_format(x: Tensor) -> torch.memory_format:
    """Memory format of the result: channels last if ``x`` is."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _bags(offset: Tensor, mask: Tensor | None, base: Tensor, H: int, W: int
          ) -> tuple[Tensor, Tensor]:
    """Pixels that each column is made of, and their weights.

    Args:
        offset: ``[groups, taps, 2, n]``, (dy, dx) of ``n`` output pixels.
        mask: ``[groups, taps, n]``, the modulation.
        base: ``[taps, 2, n]``, (y, x) of the taps without offsets.
        H: height of the image.
        W: width of the image.

    Returns:
        Pixel numbers, ``H * W`` for one outside, and weights, ``[n, taps, groups, 4]``.
    """
    place = (base + offset).permute(3, 1, 0, 2)
    limit = place.new_tensor([H, W])
    inside = ((place > -1) & (place < limit)).all(-1, keepdim=True)
    place = place.where(inside, 0)
    # mmcv's v2 takes the floor in float32 even of float64. Only a sample within 1e-7 of a pixel can
    # tell: the gradient of its offset comes from the other side of the kink.
    low = (place.detach() if mask is None else place.detach().float()).floor()
    part = place - low  # with the gradient of the place; floor has none
    fy, fx = part.unbind(-1)
    weights = torch.stack([(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx], -1)
    if mask is not None:
        weights = weights * mask.permute(2, 1, 0).unsqueeze(-1)
    y, x = low.long().unbind(-1)
    corners = []
    for cy, cx in ((y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1)):
        real = inside.squeeze(-1) & (cy >= 0) & (cy < H) & (cx >= 0) & (cx < W)
        corners.append(torch.where(real, cy * W + cx, H * W))
    return torch.stack(corners, -1), weights


def _convolve(pixels: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, base: Tensor,
              H: int, W: int) -> Tensor:
    """``[n, O]`` of one image: ``pixels`` ``[H * W + 1, C]`` (the last is zero), and as ``_bags``;
    ``weight`` ``[groups, O / groups, taps, C / groups]``."""
    bags, weights = _bags(offset, mask, base, H, W)
    n, taps, dg = bags.shape[:3]
    bags = bags * dg + torch.arange(dg, device=bags.device).view(-1, 1)
    columns = F.embedding_bag(bags.view(-1, 4), pixels.view(-1, pixels.shape[1] // dg),
                              per_sample_weights=weights.reshape(-1, 4), mode="sum")
    columns = columns.to(weight.dtype).view(n, taps, weight.shape[0], weight.shape[3])
    return torch.einsum("pkgc,gokc->pgo", columns, weight).flatten(1)


def deform_conv2d_cpu(
        x: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, bias: Tensor | None,
        stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int], groups: int,
        deform_groups: int) -> Tensor:
    """Deformable convolution of tensors of one floating-point type.

    Coordinates and interpolation are in float32, in float64 for float64; columns are rounded to
    the type of the tensors before the product. Arguments and result as
    :func:`fastdet.kernels.deform_conv2d.deform_conv2d`, unchecked, with offset and mask of the
    size of the result.
    """
    (B, C, H, W), (O, cg, kh, kw) = x.shape, weight.shape  # noqa: E741
    oh, ow = offset.shape[2:]
    wide = torch.promote_types(x.dtype, torch.float32)
    taps, P = kh * kw, oh * ow
    axes = []
    for n, k, s, p, d in zip((oh, ow), (kh, kw), stride, padding, dilation):
        tap, pixel = (torch.arange(m, device=x.device, dtype=wide) for m in (k, n))
        axes.append((tap * d - p)[:, None] + pixel * s)
    y = axes[0].view(kh, 1, oh, 1).expand(kh, kw, oh, ow)
    base = torch.stack([y, axes[1].view(1, kw, 1, ow).expand_as(y)], 2).view(taps, 2, P)

    offset = offset.reshape(B, deform_groups, taps, 2, P).to(wide)
    mask = None if mask is None else mask.reshape(B, deform_groups, taps, P).to(wide)
    per_group = weight.view(groups, O // groups, cg, taps).transpose(2, 3)
    pixels = F.pad(x.permute(0, 2, 3, 1).reshape(B, H * W, C).to(wide), (0, 0, 0, 1))
    # Under torch.compile the number of parts must not depend on the image's size.
    whole = torch.compiler.is_compiling()
    step = P if whole else max(1, COLUMNS // (taps * C))
    again = torch.is_grad_enabled() and not whole and step < B * P
    images = []
    for b in range(B):
        rows = []
        for i in range(0, P, step):
            args = (pixels[b], offset[b, ..., i:i + step],
                    None if mask is None else mask[b, ..., i:i + step], per_group,
                    base[..., i:i + step], H, W)
            rows.append(checkpoint(_convolve, *args, use_reentrant=False, preserve_rng_state=False)
                        if again else _convolve(*args))
        images.append(rows[0] if len(rows) == 1 else torch.cat(rows))
    if B:
        out = torch.stack(images)
    else:  # no column; the empty result still depends on all arguments, with gradients of zero
        out = x.new_zeros(0, P, O)
        for t in (x, offset, mask, per_group):
            out = out if t is None else out + t.sum().to(x.dtype)
    out = out.view(B, oh, ow, O).permute(0, 3, 1, 2)
    out = out if bias is None else out + bias.view(-1, 1, 1)
    return out.contiguous(memory_format=result_format(x))
