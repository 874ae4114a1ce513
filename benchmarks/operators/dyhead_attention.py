"""DyHead's norms, attention and dynamic ReLU of all levels, against MMDetection's form of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdet.kernels.deform_conv2d.op import tile_config
from fastdet.kernels.dyhead_attention import Attention, dyhead_attention
from fastdet.kernels.dyhead_convs import Convolved, Pyramid
from fastdet.kernels.dyhead_convs.reference import moments_of_tiles

from ..entry import Entry, Inputs, Work, against_reference, normal
from ..maps import DYHEAD, DYHEAD_CPU, halves

PARAMETERS = {"norms": 6, "attention": 2, "squeeze": 2, "excite": 2}


def _make(*, dtype: torch.dtype, device: torch.device, B: int, C: int, H: int, W: int,
          levels: int, groups: int) -> Inputs:
    """Maps as the convolutions leave them; half types are maps under autocast."""
    pyramid = Pyramid(B, tuple(halves(H, W, levels)))
    maps = normal(pyramid.rows, C, dtype=dtype, device=device)
    tile = tile_config("fwd", C, C, dtype).block_p
    stats = moments_of_tiles(maps, *pyramid, tile)
    hidden = C // 4
    # Scales around 1 and apart from each other: no HSigmoid is flat there.
    drawn = {
        "norms": [t for _ in range(3) for t in (1 + torch.randn(C) / 4, torch.randn(C))],
        "attention": [torch.randn(C) / (4 * C**0.5), torch.ones(1)],
        "squeeze": [torch.randn(hidden, C) / C**0.5, torch.randn(hidden)],
        "excite": [torch.randn(4 * C, hidden) / hidden**0.5, torch.randn(4 * C) / 4],
    }
    return {"maps": maps, "stats": stats,
            "pyramid": pyramid, "tile": tile, "groups": groups,
            "amp": None if dtype == torch.float32 else dtype,
            **{f"{name}{i}": t.to(device).requires_grad_()
               for name, tensors in drawn.items() for i, t in enumerate(tensors)}}


def _run(x: Inputs) -> list[Tensor]:
    given: dict[str, Any] = {
        name: tuple(x[f"{name}{i}"] for i in range(n)) for name, n in PARAMETERS.items()}
    parameters = Attention(groups=x["groups"], **given)
    convolved = Convolved(x["maps"], x["stats"], x["pyramid"], x["tile"])
    with torch.autocast(x["maps"].device.type, dtype=x["amp"], enabled=x["amp"] is not None):
        return dyhead_attention(convolved, parameters)


def _work(*, dtype: torch.dtype, backward: bool, B: int, C: int, H: int, W: int,
          levels: int, groups: int) -> Work:
    # Forward reads the maps and writes a result of float32 (autocast). Backward reads maps and
    # gradient twice, as sums come before what they scale. A pixel of a branch takes some four
    # operations.
    pixels = [B * C * h * w for h, w in halves(H, W, levels)]
    out = sum(pixels)
    maps = 3 * out - 2 * pixels[0]
    return Work(bytes=(1 + 3 * backward) * maps * dtype.itemsize + (1 + 2 * backward) * out * 4,
                flops=(4 + 12 * backward) * maps)


ENTRY = Entry(
    name="dyhead_attention",
    shapes={name: {**shape, "groups": 16} for name, shape in DYHEAD.items()},
    cpu={name: {**shape, "groups": 16} for name, shape in DYHEAD_CPU.items()},
    tiny={"B": 2, "C": 8, "H": 6, "W": 9, "levels": 2, "groups": 2},
    make=_make,
    providers=against_reference(_run),
    work=_work,
    kernels=("dyhead_attention_",),
    ledger=("b2/fp32", "b2/bf16"),
)
