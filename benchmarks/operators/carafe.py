"""CARAFE, against its reference, which is its definition."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdet.kernels.carafe import carafe

from ..entry import Entry, Inputs, Work, against_reference, normal


def _make(*, dtype: torch.dtype, device: torch.device, B: int, C: int, H: int, W: int,
          k: int, groups: int, scale: int) -> Inputs:
    to: dict[str, Any] = {"dtype": dtype, "device": device}
    return {"features": normal(B, C, H, W, **to),
            "masks": normal(B, groups * k**2 * scale**2, H, W, **to),
            "sizes": (k, groups, scale)}


def _run(x: Inputs) -> Tensor:
    return carafe(x["features"], x["masks"], *x["sizes"], normalize=True)


def _work(*, dtype: torch.dtype, backward: bool, B: int, C: int, H: int, W: int, k: int,
          groups: int, scale: int) -> Work:
    # Backward reads features, weights and the result's gradient and writes two gradients.
    inputs, out = B * H * W * (C + groups * k**2 * scale**2), B * C * H * W * scale**2
    return Work(bytes=(inputs + out + backward * (2 * inputs + out)) * dtype.itemsize,
                flops=(1 + 2 * backward) * 2 * k**2 * out)


ENTRY = Entry(
    name="carafe",
    shapes={"fpn_c4_b2": {"B": 2, "C": 256, "H": 50, "W": 84, "k": 5, "groups": 1, "scale": 2},
            "scale4_b2": {"B": 2, "C": 256, "H": 25, "W": 42, "k": 5, "groups": 1, "scale": 4}},
    cpu={"fpn_c5_b1": {"B": 1, "C": 256, "H": 25, "W": 42, "k": 5, "groups": 1, "scale": 2}},
    tiny={"B": 1, "C": 12, "H": 5, "W": 7, "k": 3, "groups": 2, "scale": 2},
    make=_make,
    providers=against_reference(_run),
    work=_work,
    kernels=("carafe_",),
    ledger=("fpn_c4_b2/fp32", "fpn_c4_b2/bf16", "scale4_b2/fp32", "scale4_b2/bf16"),
)
