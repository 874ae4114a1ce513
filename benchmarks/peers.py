"""What fastdet is held against, where no other file of the repository already states it.

Each function is a known algorithm in eager torch, in our own words; the literal form of window
attention lives in ``kernels/window_attention/eager.py``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fastdet.kernels.window_attention import reference

__all__ = ["deform_conv2d_columns", "grid_points_eager", "grid_priors_eager",
           "spatial_reduction_attention_eager", "spatial_reduction_attention_sdpa",
           "valid_flags_eager", "window_attention_sdpa"]


def grid_priors_eager(base: Sequence[Tensor], sizes: Sequence[tuple[int, int]],
                      strides: Sequence[tuple[int, int]], device: torch.device) -> list[Tensor]:
    """Anchors as MMDetection makes them: level by level, some ten operations each.

    The base anchors stay on the CPU and move to the device at every call, as they do there.
    """
    out, dtype = [], base[0].dtype
    for cell, (h, w), (step_x, step_y) in zip(base, sizes, strides):
        x = torch.arange(0, w, device=device).to(dtype) * step_x
        y = torch.arange(0, h, device=device).to(dtype) * step_y
        xx = x.repeat(h)
        yy = y.view(-1, 1).repeat(1, w).view(-1)
        shifts = torch.stack([xx, yy, xx, yy], dim=-1)
        moved = cell.to(device)[None] + shifts[:, None]
        out.append(moved.view(-1, 4))
    return out


def grid_points_eager(sizes: Sequence[tuple[int, int]], strides: Sequence[tuple[int, int]],
                      dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Points (x, y, stride, stride) as MMDetection makes them, level by level."""
    out = []
    for (h, w), (step_x, step_y) in zip(sizes, strides):
        x = ((torch.arange(0, w, device=device) + 0.5) * step_x).to(dtype)
        y = ((torch.arange(0, h, device=device) + 0.5) * step_y).to(dtype)
        xx = x.repeat(h)
        yy = y.view(-1, 1).repeat(1, w).view(-1)
        stride_x = xx.new_full((xx.shape[0],), step_x)
        stride_y = xx.new_full((yy.shape[0],), step_y)
        out.append(torch.stack([xx, yy, stride_x, stride_y], dim=-1))
    return out


def valid_flags_eager(sizes: Sequence[tuple[int, int]], strides: Sequence[tuple[int, int]],
                      pad_shapes: Sequence[tuple[int, int]], anchors: Sequence[int],
                      device: torch.device) -> list[list[Tensor]]:
    """Valid flags as MMDetection makes them: image by image, level by level."""
    out = []
    for pad_h, pad_w in pad_shapes:
        levels = []
        for (h, w), (step_x, step_y), a in zip(sizes, strides, anchors):
            x = torch.zeros(w, dtype=torch.bool, device=device)
            y = torch.zeros(h, dtype=torch.bool, device=device)
            x[: min(math.ceil(pad_w / step_x), w)] = 1
            y[: min(math.ceil(pad_h / step_y), h)] = 1
            both = x.repeat(h) & y.view(-1, 1).repeat(1, w).view(-1)
            levels.append(both[:, None].expand(h * w, a).contiguous().view(-1))
        out.append(levels)
    return out


def window_attention_sdpa(
        qkv: Tensor, relative_position_bias_table: Tensor, hw: tuple[int, int], *, num_heads: int,
        window_size: int, shift: int = 0, scale: float | None = None,
        pad_value: Tensor | None = None, dropout_p: float = 0.0,
        relative_position_index: Tensor | None = None) -> Tensor:
    """Window attention through ``scaled_dot_product_attention``.

    Bias and shift mask are folded into one additive mask; the copies into windows and back, which
    SDPA forces on its user, are part of it. Arguments as
    :func:`fastdet.kernels.window_attention.window_attention`.
    """
    table, w, (height, width) = relative_position_bias_table, window_size, hw
    b, _, c3 = qkv.shape
    pad_h, pad_w = -height % w, -width % w
    hp, wp = height + pad_h, width + pad_w
    area, windows = w * w, (hp // w) * (wp // w)
    x = qkv.view(b, height, width, c3)
    if pad_h or pad_w:
        fill = qkv.new_zeros(c3) if pad_value is None else pad_value.to(qkv.dtype)
        x = torch.cat([x, fill.expand(b, height, pad_w, c3)], 2) if pad_w else x
        x = torch.cat([x, fill.expand(b, pad_h, wp, c3)], 1) if pad_h else x
    if shift:
        x = x.roll((-shift, -shift), (1, 2))
    x = x.view(b, hp // w, w, wp // w, w, 3, num_heads, c3 // 3 // num_heads)
    q, k, v = x.permute(5, 0, 1, 3, 6, 2, 4, 7).reshape(
        3, b, windows, num_heads, area, -1).unbind(0)

    index = relative_position_index
    if index is None:
        index = reference.standard_index(w, qkv.device)
    mask = table[index.flatten()].view(area, area, num_heads).permute(2, 0, 1)[None]
    if shift:
        row = torch.arange(hp, device=qkv.device)
        column = torch.arange(wp, device=qkv.device)
        row = (row >= hp - w).int() + (row >= hp - shift).int()
        column = (column >= wp - w).int() + (column >= wp - shift).int()
        region = (3 * row[:, None] + column).view(hp // w, w, wp // w, w)
        region = region.transpose(1, 2).reshape(windows, 1, area)
        apart = region.unsqueeze(-1) != region.unsqueeze(-2)
        mask = mask + torch.where(apart, reference.MASK_VALUE, 0.0)
    mask = mask.to(q.dtype).expand(b, windows, -1, -1, -1).flatten(0, 1)
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p, scale=scale)
    x = x.view(b, hp // w, wp // w, num_heads, w, w, -1)
    x = x.permute(0, 1, 4, 2, 5, 3, 6).reshape(b, hp, wp, c3 // 3)
    if shift:
        x = x.roll((shift, shift), (1, 2))
    return x[:, :height, :width].reshape(b, height * width, c3 // 3)


def _heads(q: Tensor, kv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """``[B, heads, N, d]`` views of queries, keys and values."""
    k, v = kv.chunk(2, dim=-1)
    q, k, v = (t.unflatten(-1, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    return q, k, v


def spatial_reduction_attention_eager(q: Tensor, kv: Tensor, num_heads: int) -> Tensor:
    """PVT's attention as ``nn.MultiheadAttention(need_weights=True)`` runs it.

    The scores lie in memory, and the weights are averaged over the heads for a caller that throws
    them away.
    """
    q, k, v = _heads(q, kv, num_heads)
    weights = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1)
    out = weights @ v
    weights.mean(1)
    return out.transpose(1, 2).flatten(2)


def spatial_reduction_attention_sdpa(q: Tensor, kv: Tensor, num_heads: int) -> Tensor:
    """The same through ``scaled_dot_product_attention``, which chooses its own backend."""
    q, k, v = _heads(q, kv, num_heads)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def deform_conv2d_columns(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor,
                          groups: int) -> Tensor:
    """Modulated deformable convolution by mmcv's algorithm: all columns in memory, one product.

    Stride 1, padding that keeps the size, one deform group. Places and samples are in float32 at
    least; the columns are of the type of ``x``.
    """
    (b, c, h, w), (kh, kw) = x.shape, weight.shape[2:]
    wide = torch.promote_types(x.dtype, torch.float32)
    y, x_, ky, kx = (torch.arange(n, device=x.device, dtype=wide) for n in (h, w, kh, kw))
    offset = offset.to(wide).view(b, kh, kw, 2, h, w)
    rows = offset[:, :, :, 0] + (ky - kh // 2).view(kh, 1, 1, 1) + y.view(h, 1)
    columns = offset[:, :, :, 1] + (kx - kw // 2).view(kw, 1, 1) + x_
    grid = torch.stack([(2 * columns + 1) / w - 1, (2 * rows + 1) / h - 1], -1)
    samples = F.grid_sample(x.to(wide), grid.view(b, -1, w, 2), align_corners=False)
    samples = samples.view(b, c, kh * kw, h * w) * mask.to(wide).view(b, 1, kh * kw, h * w)
    samples = samples.to(x.dtype).view(b, groups, -1, h * w)
    out = weight.view(groups, weight.shape[0] // groups, -1) @ samples
    return out.view(b, -1, h, w) + bias.view(-1, 1, 1)
