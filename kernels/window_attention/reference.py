"""Window attention as it is defined (Swin, arXiv 2103.14030): the oracle of the tests."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["MASK_VALUE", "standard_index", "window_attention_reference"]

#: Added to a score whose query and key come from different sides of a rolled border.
MASK_VALUE = -100.0


def standard_index(window_size: int, device: torch.device | None = None) -> Tensor:
    """Row of the bias table for every (query, key) of a window.

    Args:
        window_size: the window's side ``w``, in tokens.
        device: where to make it.

    Returns:
        ``[w * w, w * w]`` int64; entry ``(i, j)`` is
        ``(r_i - r_j + w - 1) * (2 * w - 1) + c_i - c_j + w - 1``.
    """
    w = window_size
    i = torch.arange(w, device=device)
    place = ((2 * w - 1) * i[:, None] + i).flatten()
    return place[:, None] - place + 2 * w * (w - 1)


def _windows(x: Tensor, w: int) -> Tensor:
    """``[B, H, W, C]`` cut into ``[B * windows, w * w, C]``."""
    b, h, width, c = x.shape
    return x.view(b, h // w, w, width // w, w, c).transpose(2, 3).reshape(-1, w * w, c)


def window_attention_reference(
        qkv: Tensor, table: Tensor, hw: tuple[int, int], *, num_heads: int, window_size: int,
        shift: int = 0, scale: float | None = None, pad_value: Tensor | None = None,
        dropout_p: float = 0.0, relative_position_index: Tensor | None = None) -> Tensor:
    """Pad, roll, cut into windows, attend in each, and all the way back.

    Arguments and result as :func:`fastdet.kernels.window_attention.window_attention`, unchecked.
    """
    (b, _, c3), w, area = qkv.shape, window_size, window_size**2
    H, W = hw
    down, across = -(-H // w) * w, -(-W // w) * w
    pad = qkv.new_zeros(c3) if pad_value is None else pad_value.to(qkv.dtype)
    x = pad.expand(b, down, across, c3).clone()
    x[:, :H, :W] = qkv.view(b, H, W, c3)
    x = _windows(x.roll((-shift, -shift), (1, 2)), w)

    q, k, v = x.view(len(x), area, 3, num_heads, -1).permute(2, 0, 3, 1, 4)
    index = standard_index(w, qkv.device) if relative_position_index is None \
        else relative_position_index
    scores = q * (q.shape[-1] ** -0.5 if scale is None else scale) @ k.mT
    scores = scores + table[index].permute(2, 0, 1)
    if shift:  # what came round the border: the last rows and columns, on a side of their own
        row, column = (torch.arange(n, device=qkv.device) >= n - shift for n in (down, across))
        side = (2 * row[:, None] + column).expand(b, down, across).unsqueeze(-1)
        side = _windows(side, w)
        scores = scores + MASK_VALUE * (side != side.mT).unsqueeze(1)
    weights = F.dropout(scores.softmax(-1), dropout_p).to(v.dtype)
    out = (weights @ v).transpose(1, 2).reshape(b, down // w, across // w, w, w, c3 // 3)
    out = out.transpose(2, 3).reshape(b, down, across, c3 // 3).roll((shift, shift), (1, 2))
    return out[:, :H, :W].reshape(b, H * W, c3 // 3)
