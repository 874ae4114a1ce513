"""Residual sum, layer normalisation and cast around Swin's and PVT's attention, against torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdet.kernels.add_layer_norm import add_layer_norm

from ..entry import Entry, Inputs, Work, against_reference, normal


def _make(*, dtype: torch.dtype, device: torch.device, B: int, N: int, C: int) -> Inputs:
    # As under autocast: the residual stream and the weights stay float32.
    wide: dict[str, Any] = {"dtype": torch.float32, "device": device}
    return {"x": normal(B, N, C, **wide), "branch": normal(B, N, C, dtype=dtype, device=device),
            "weight": normal(C, **wide), "bias": normal(C, **wide)}


def _run(x: Inputs) -> tuple[Tensor, Tensor]:
    return add_layer_norm(x["x"], x["branch"], x["weight"], x["bias"], dtype=x["branch"].dtype)


def _work(*, dtype: torch.dtype, backward: bool, B: int, N: int, C: int) -> Work:
    # Sum and branch in, sum and norm out; backward reads the sum and two gradients, and writes two
    # (one where the types are the same).
    own, wide = dtype.itemsize, 4
    there = 2 * wide + 2 * own
    back = 3 * wide + own + (own if own != wide else 0)
    return Work(bytes=(there + backward * back) * B * N * C,
                flops=(9 + 16 * backward) * B * N * C)


def _swin(stage: int, **more: Any) -> dict[str, Any]:
    """One stage of Swin-T on two images of 800 x 1344."""
    return {"B": 2, "N": -(-200 // 2 ** stage) * -(-336 // 2 ** stage), "C": 96 * 2 ** stage,
            **more}


ENTRY = Entry(
    name="add_layer_norm",
    shapes={f"swin_t_s{stage + 1}_b2": _swin(stage) for stage in range(4)},
    cpu={"swin_t_s3_b1": _swin(2, B=1)},
    tiny={"B": 2, "N": 7, "C": 24},
    make=_make,
    providers=against_reference(_run),
    work=_work,
    kernels=("add_layer_norm_",),
    ledger=("swin_t_s1_b2/fp32", "swin_t_s1_b2/bf16", "swin_t_s4_b2/fp16"),
)
