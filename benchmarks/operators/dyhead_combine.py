"""DyHead's weighted sum of levels, against its reference, which is MMDetection's form."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdet.kernels.dyhead_combine import Branch, dyhead_combine

from ..entry import Entry, Inputs, Work, against_reference, normal
from ..maps import DYHEAD_LEVELS


def _make(*, dtype: torch.dtype, device: torch.device, B: int, C: int, H: int, W: int,
          groups: int) -> Inputs:
    """Three branches, the coarser of half the size; half types are maps under autocast."""
    inputs: Inputs = {"groups": groups, "amp": None if dtype == torch.float32 else dtype}
    for name, size in (("mid", (H, W)), ("low", (H, W)), ("high", (-(-H // 2), -(-W // 2)))):
        inputs[name] = normal(B, C, *size, dtype=dtype, device=device)
        inputs[f"{name}_weight"] = (1 + torch.randn(C, device=device) / 4).requires_grad_()
        inputs[f"{name}_bias"] = torch.randn(C, device=device).requires_grad_()
    # Scales around 1 and apart from each other: the HSigmoid is not flat there.
    inputs["weight"] = (torch.randn(C, device=device) / (4 * C**0.5)).requires_grad_()
    inputs["bias"] = torch.ones(1, device=device).requires_grad_()
    return inputs


def _run(x: Inputs) -> tuple[Tensor, Tensor]:
    branches = [Branch(x[name], x[f"{name}_weight"], x[f"{name}_bias"])
                for name in ("mid", "low", "high")]
    with torch.autocast(x["mid"].device.type, dtype=x["amp"], enabled=x["amp"] is not None):
        return dyhead_combine(branches, x["weight"], x["bias"], groups=x["groups"])


def _work(*, dtype: torch.dtype, backward: bool, B: int, C: int, H: int, W: int,
          groups: int) -> Work:
    # Forward reads the maps twice, as a mean comes before what it scales, and writes a result of
    # float32 (autocast). Backward reads maps and gradient twice for the same reason. A pixel of a
    # branch takes some four operations for the mean and variance and two for the sum.
    out = B * C * H * W
    maps = 2 * out + B * C * -(-H // 2) * -(-W // 2)
    return Work(bytes=(2 + 3 * backward) * maps * dtype.itemsize + (1 + 2 * backward) * out * 4,
                flops=(6 + 12 * backward) * maps)


ENTRY = Entry(
    name="dyhead_combine",
    shapes={name: {**level, "groups": 16} for name, level in DYHEAD_LEVELS.items()},
    cpu={"p4_b1": {**DYHEAD_LEVELS["p4_b2"], "B": 1, "groups": 16}},
    tiny={"B": 2, "C": 8, "H": 6, "W": 9, "groups": 2},
    make=_make,
    providers=against_reference(_run),
    work=_work,
    kernels=("dyhead_combine_",),
    ledger=("p4_b2/fp32", "p4_b2/bf16"),
)
