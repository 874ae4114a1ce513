"""Window attention literally as MMDetection runs it: pad, roll, partition, attend, and back.

The peer of the benchmarks and an independent second form for the tests; nothing else uses it.
MMDetection pads, rolls and partitions before the qkv projection, so moves C channels where this
form, which starts from qkv, moves 3C: a fair peer of the whole block partitions first.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["window_attention_eager"]


def _double_step_index(w: int, device: torch.device) -> Tensor:
    steps = torch.arange(0, (2 * w - 1) * w, 2 * w - 1, device=device)
    places = (steps[:, None] + torch.arange(w, device=device)[None, :]).reshape(1, -1)
    return (places + places.T).flip(1).contiguous()


def window_attention_eager(
        qkv: Tensor, relative_position_bias_table: Tensor, hw: tuple[int, int], *, num_heads: int,
        window_size: int, shift: int = 0, scale: float | None = None,
        pad_value: Tensor | None = None, dropout_p: float = 0.0,
        relative_position_index: Tensor | None = None) -> Tensor:
    """Window attention step by step, each step its own tensor in memory.

    Arguments and result as :func:`fastdet.kernels.window_attention.window_attention`, unchecked.
    """
    table, index, w = relative_position_bias_table, relative_position_index, window_size
    (height, width), (b, _, c3) = hw, qkv.shape
    heads, area = num_heads, w * w
    x = qkv.view(b, height, width, c3)
    pad = x.new_zeros(c3) if pad_value is None else pad_value.to(x.dtype)
    if width % w:
        x = torch.cat([x, pad.expand(b, height, -width % w, c3)], 2)
    if height % w:
        x = torch.cat([x, pad.expand(b, -height % w, x.shape[2], c3)], 1)
    hp, wp = x.shape[1:3]
    if shift:
        x = x.roll((-shift, -shift), (1, 2))
    x = x.view(b, hp // w, w, wp // w, w, c3).permute(0, 1, 3, 2, 4, 5).reshape(-1, area, c3)

    q, k, v = x.view(-1, area, 3, heads, c3 // 3 // heads).permute(2, 0, 3, 1, 4)
    q = q * (q.shape[-1] ** -0.5 if scale is None else scale)
    scores = q @ k.transpose(-2, -1)
    index = _double_step_index(w, qkv.device) if index is None else index
    bias = table[index.view(-1)].view(area, area, -1).permute(2, 0, 1).contiguous()
    scores = scores + bias.unsqueeze(0)
    if shift:
        region = torch.zeros(hp, wp, device=qkv.device)
        cuts = (slice(0, -w), slice(-w, -shift), slice(-shift, None))
        for i, rows in enumerate(cuts):
            for j, columns in enumerate(cuts):
                region[rows, columns] = 3 * i + j
        region = region.view(hp // w, w, wp // w, w).transpose(1, 2).reshape(-1, area)
        apart = region[:, None, :] - region[:, :, None]
        mask = torch.zeros_like(apart, dtype=scores.dtype).masked_fill(apart != 0, -100.0)
        scores = scores.view(b, -1, heads, area, area) + mask[None, :, None]
        scores = scores.view(-1, heads, area, area)
    weights = F.dropout(scores.softmax(-1), dropout_p).to(v.dtype)
    x = (weights @ v).transpose(1, 2).reshape(-1, w, w, c3 // 3)

    x = x.view(b, hp // w, wp // w, w, w, -1).permute(0, 1, 3, 2, 4, 5).reshape(b, hp, wp, -1)
    if shift:
        x = x.roll((shift, shift), (1, 2))
    return x[:, :height, :width].reshape(b, height * width, c3 // 3)
