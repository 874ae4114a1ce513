"""Merging of 2 x 2 tokens, layer normalisation and cast between Swin's stages, against torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdet.kernels.merge_layer_norm import merge_layer_norm

from ..entry import Entry, Inputs, Work, against_reference, normal


def _make(*, dtype: torch.dtype, device: torch.device, B: int, H: int, W: int, C: int) -> Inputs:
    # As under autocast: the residual stream and the weights stay float32.
    wide: dict[str, Any] = {"dtype": torch.float32, "device": device}
    return {"x": normal(B, H * W, C, **wide), "hw": (H, W), "dtype": dtype,
            "weight": normal(4 * C, **wide), "bias": normal(4 * C, **wide)}


def _run(x: Inputs) -> Tensor:
    dtype = torch.float64 if x["x"].dtype == torch.float64 else x["dtype"]  # as for the truth
    return merge_layer_norm(x["x"], x["hw"], x["weight"], x["bias"], dtype=dtype)


def _work(*, dtype: torch.dtype, backward: bool, B: int, H: int, W: int, C: int) -> Work:
    # Tokens in, merged ones out; backward reads both and writes the tokens' gradient.
    own, wide = dtype.itemsize, 4
    there = -(-H // 2) * -(-W // 2) * 4
    return Work(bytes=((1 + 2 * backward) * wide * H * W + (1 + backward) * own * there) * B * C,
                flops=(8 + 16 * backward) * B * there * C)


def _swin(stage: int, **more: Any) -> dict[str, Any]:
    """Behind one stage of Swin-T on two images of 800 x 1344."""
    return {"B": 2, "H": -(-200 // 2 ** stage), "W": -(-336 // 2 ** stage), "C": 96 * 2 ** stage,
            **more}


ENTRY = Entry(
    name="merge_layer_norm",
    shapes={f"swin_t_s{stage + 1}_b2": _swin(stage) for stage in range(3)},
    cpu={"swin_t_s2_b1": _swin(1, B=1)},
    tiny={"B": 2, "H": 3, "W": 5, "C": 12},
    make=_make,
    providers=against_reference(_run),
    work=_work,
    kernels=("merge_layer_norm_",),
    ledger=("swin_t_s1_b2/fp32", "swin_t_s3_b2/bf16"),
)
