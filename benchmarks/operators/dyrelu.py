"""DyHead's dynamic ReLU, against its reference, which is MMDetection's form."""

from __future__ import annotations

import torch

from fastdet.kernels.dyrelu import dyrelu

from ..entry import Entry, Inputs, Work, against_reference, normal
from ..maps import DYHEAD_LEVELS


def _make(*, dtype: torch.dtype, device: torch.device, B: int, C: int, H: int, W: int
          ) -> Inputs:
    coeffs = torch.rand(B, 4 * C, dtype=dtype, device=device)
    return {"x": normal(B, C, H, W, dtype=dtype, device=device),
            "coeffs": coeffs.requires_grad_()}


def _work(*, dtype: torch.dtype, backward: bool, B: int, C: int, H: int, W: int) -> Work:
    # Two lines and the larger of them; backward, the choice again, a product, and four sums.
    return Work(bytes=(2 + 3 * backward) * B * C * H * W * dtype.itemsize,
                flops=(5 + 9 * backward) * B * C * H * W)


ENTRY = Entry(
    name="dyrelu",
    shapes=DYHEAD_LEVELS,
    cpu={"p4_b1": {**DYHEAD_LEVELS["p4_b2"], "B": 1}},
    tiny={"B": 2, "C": 3, "H": 5, "W": 7},
    make=_make,
    providers=against_reference(lambda x: dyrelu(x["x"], x["coeffs"])),
    work=_work,
    kernels=("dyrelu_",),
    ledger=("p4_b2/fp32", "p4_b2/bf16"),
)
