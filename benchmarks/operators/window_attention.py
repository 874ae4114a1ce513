"""Window attention of Swin, against MMDetection's own form and torch's fused attention."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastdet.kernels.window_attention import window_attention

from ..entry import Entry, Inputs, Provider, Work


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
        index = _double_step_index(w, qkv.device)
    mask = table[index.flatten()].view(area, area, num_heads).permute(2, 0, 1)[None]
    if shift:
        row = torch.arange(hp, device=qkv.device)
        column = torch.arange(wp, device=qkv.device)
        row = (row >= hp - w).int() + (row >= hp - shift).int()
        column = (column >= wp - w).int() + (column >= wp - shift).int()
        region = (3 * row[:, None] + column).view(hp // w, w, wp // w, w)
        region = region.transpose(1, 2).reshape(windows, 1, area)
        apart = region.unsqueeze(-1) != region.unsqueeze(-2)
        mask = mask + torch.where(apart, -100.0, 0.0)
    mask = mask.to(q.dtype).expand(b, windows, -1, -1, -1).flatten(0, 1)
    q, k, v = (t.flatten(0, 1) for t in (q, k, v))
    x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout_p, scale=scale)
    x = x.view(b, hp // w, wp // w, num_heads, w, w, -1)
    x = x.permute(0, 1, 4, 2, 5, 3, 6).reshape(b, hp, wp, c3 // 3)
    if shift:
        x = x.roll((shift, shift), (1, 2))
    return x[:, :height, :width].reshape(b, height * width, c3 // 3)


def _make(*, dtype: torch.dtype, device: torch.device, B: int, H: int, W: int, heads: int,
          d: int, window: int, shift: int, pad: bool = False,
          dropout: float = 0.0) -> Inputs:
    c3 = 3 * heads * d
    qkv = torch.randn(B, H * W, c3, device=device, dtype=dtype)
    table = torch.randn((2 * window - 1) ** 2, heads, device=device)
    return {"qkv": qkv.requires_grad_(), "table": table.requires_grad_(), "hw": (H, W),
            "options": {"num_heads": heads, "window_size": window, "shift": shift,
                        "dropout_p": dropout},
            "pad_value": torch.randn(c3, device=device).requires_grad_() if pad else None}


def _run(function: Callable[..., Tensor]) -> Callable[[Inputs], Tensor]:
    def run(x: Inputs) -> Tensor:
        return function(x["qkv"], x["table"], x["hw"], pad_value=x["pad_value"], **x["options"])
    return run


def _work(*, dtype: torch.dtype, backward: bool, B: int, H: int, W: int, heads: int,
          d: int, window: int, **_: Any) -> Work:
    tokens, area = B * H * W * heads * d, window * window
    windows = B * -(-H // window) * -(-W // window)
    product = 2 * windows * heads * area * area * d
    # Forward reads q, k, v and writes the output in two products. Backward reads q, k, v and the
    # output's gradient and writes three gradients, in five products (one of them the scores again).
    return Work(bytes=(4 + 7 * backward) * tokens * dtype.itemsize,
                flops=(2 + 5 * backward) * product)


def _swin_stage(stage: int, **more: Any) -> dict[str, Any]:
    """One stage of Swin-T on two images of 800 x 1344."""
    return {"B": 2, "H": -(-200 // 2 ** stage), "W": -(-336 // 2 ** stage), "heads": 3 * 2 ** stage,
            "d": 32, "window": 7, "shift": 3, **more}


ENTRY = Entry(
    name="window_attention",
    # MMDetection pads before the projection, so its core is handed padded maps; zeros (pad=False)
    # let every provider pad at the same price.
    shapes={
        "swin_t_s1_b2": _swin_stage(0),
        "swin_t_s1_b2_unshifted": _swin_stage(0, shift=0),
        "swin_t_s2_b2": _swin_stage(1),
        "swin_t_s3_b2": _swin_stage(2),
        "swin_t_s4_b2": _swin_stage(3),
        "swin_t_s4_b2_padded": _swin_stage(3, pad=True),
        "swin_l384_s3_b2": {"B": 2, "H": 50, "W": 84, "heads": 24, "d": 32, "window": 12,
                            "shift": 6, "pad": False},
    },
    cpu={"swin_t_s1_b1_320x480": {**_swin_stage(0), "B": 1, "H": 80, "W": 120},
         "swin_t_s3_b1": {**_swin_stage(2), "B": 1}},
    tiny={"B": 2, "H": 5, "W": 9, "heads": 2, "d": 16, "window": 4, "shift": 2},
    make=_make,
    providers={
        "eager": Provider(_run(window_attention_eager)),
        "compile": Provider(_run(window_attention_eager), compiled=True),
        "sdpa": Provider(_run(window_attention_sdpa)),
        "fastdet": Provider(_run(window_attention)),
    },
    work=_work,
    kernels=("window_attention_",),
    compiled={
        "dropout": _swin_stage(3, pad=True, dropout=0.1),
        "heads_of_64": _swin_stage(3, pad=True, d=64),
        "heads_of_128": _swin_stage(3, pad=True, d=128),
    },
    ledger=("swin_t_s4_b2_padded/fp32", "swin_t_s4_b2_padded/fp16", "swin_t_s4_b2_padded/bf16",
            "swin_t_s4_b2_padded/fp32+tf32", "dropout/bf16", "heads_of_64/bf16",
            "heads_of_128/bf16", "swin_l384_s3_b2/fp32+tf32", "swin_l384_s3_b2/bf16"),
    exceptions={("window_attention_bwd_long_kernel", "spills"):
                "TF32 on sm_80 stores and loads one register a window, not in the inner loop"},
)
