"""Deformable DETR's attention, against grid_sample with all samples in memory."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fastdet.kernels.multi_scale_deformable_attention import multi_scale_deformable_attention

from ..entry import Entry, Inputs, Provider, Work, normal


def multi_scale_deformable_attention_eager(
        value: Tensor, spatial_shapes: list[tuple[int, int]], sampling_locations: Tensor,
        attention_weights: Tensor) -> Tensor:
    """Deformable DETR's form: every level through ``grid_sample``, all samples in memory.

    Also an independent form for the tests.
    """
    B, _, heads, d = value.shape
    Q, L, P = sampling_locations.shape[1], *sampling_locations.shape[3:5]
    maps = value.permute(0, 2, 3, 1).flatten(0, 1).split([h * w for h, w in spatial_shapes], -1)
    grids = (2 * sampling_locations - 1).transpose(1, 2).flatten(0, 1).unbind(2)
    samples = [F.grid_sample(m.reshape(B * heads, d, h, w), grid, mode="bilinear",
                             padding_mode="zeros", align_corners=False)
               for m, (h, w), grid in zip(maps, spatial_shapes, grids)]
    weights = attention_weights.transpose(1, 2).reshape(B * heads, 1, Q, L * P)
    out = (torch.cat(samples, -1) * weights).sum(-1)
    return out.view(B, heads * d, Q).transpose(1, 2).contiguous()


def _make(*, dtype: torch.dtype, device: torch.device, B: int,
          sizes: list[tuple[int, int]], heads: int, d: int, points: int,
          queries: int | None = None) -> Inputs:
    """Places and weights are float32, as autocast leaves them; no ``queries`` is the encoder."""
    rows, levels = sum(h * w for h, w in sizes), len(sizes)
    if queries is None:  # every pixel looks around itself
        grids = [torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w,
                                indexing="ij") for h, w in sizes]
        center = torch.cat([torch.stack([x, y], -1).view(-1, 2) for y, x in grids])
    else:
        center = torch.rand(queries, 2)
    extent = torch.tensor([[w, h] for h, w in sizes])
    places = center.view(-1, 1, 1, 1, 2) + \
        2 * torch.randn(B, len(center), heads, levels, points, 2) / extent.view(levels, 1, 2)
    weights = torch.randn(B, len(center), heads, levels * points).softmax(-1)
    return {"value": normal(B, rows, heads, d, dtype=dtype, device=device), "sizes": sizes,
            "places": places.to(device).requires_grad_(),
            "weights": weights.view(places.shape[:5]).to(device).requires_grad_()}


def _eager(x: Inputs) -> Tensor:
    value, places = x["value"], x["places"]
    return multi_scale_deformable_attention_eager(
        value.to(places.dtype), x["sizes"], places, x["weights"]).to(value.dtype)


def _fastdet(x: Inputs) -> Tensor:
    return multi_scale_deformable_attention(x["value"], x["sizes"], None, x["places"],
                                            x["weights"])


def _work(*, dtype: torch.dtype, backward: bool, B: int, sizes: list[tuple[int, int]],
          heads: int, d: int, points: int, queries: int | None = None) -> Work:
    rows = sum(h * w for h, w in sizes)
    out = B * (rows if queries is None else queries) * heads
    samples = out * len(sizes) * points
    # Backward reads everything and the result's gradient and writes three gradients. A channel of
    # a sample is four products and sums, backward four more for value and four for the place.
    inputs = B * rows * heads * d * dtype.itemsize + 3 * samples * 4
    result = out * d * dtype.itemsize
    return Work(bytes=inputs + result + backward * (2 * inputs + result),
                flops=(1 + 2 * backward) * 8 * samples * d)


_DETR = {"B": 2, "sizes": [(100, 167), (50, 84), (25, 42), (13, 21)], "heads": 8, "d": 32,
         "points": 4}

ENTRY = Entry(
    name="multi_scale_deformable_attention",
    shapes={  # Deformable DETR on two images of 800 x 1333
        "encoder_800x1333_b2": _DETR,
        "decoder_800x1333_b2": {**_DETR, "queries": 300},
    },
    cpu={"decoder_800x1333_b1": {**_DETR, "B": 1, "queries": 300},
         "encoder_320x480_b1": {**_DETR, "B": 1, "sizes": [(40, 60), (20, 30), (10, 15), (5, 8)]}},
    tiny={"B": 2, "sizes": [(5, 7), (3, 4)], "heads": 2, "d": 8, "points": 2, "queries": 11},
    make=_make,
    providers={
        "eager": Provider(_eager),
        "compile": Provider(_eager, compiled=True),
        "fastdet": Provider(_fastdet),
    },
    work=_work,
    kernels=("multi_scale_deformable_attention_",),
    compiled={f"heads_of_{d}": {**_DETR, "queries": 300, "d": d} for d in (64, 128)},
    ledger=("decoder_800x1333_b2/fp32", "decoder_800x1333_b2/fp32+deterministic",
            "heads_of_64/bf16", "heads_of_128/bf16", "decoder_800x1333_b2/bf16"),
)
