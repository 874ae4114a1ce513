"""GELU, the second layer of a feed-forward network and the residual sum, against torch."""

from __future__ import annotations

from typing import Any

import torch

from fastdet.kernels.gelu_linear import gelu_linear

from ..entry import Entry, Inputs, Work, against_reference, normal


def _make(*, dtype: torch.dtype, device: torch.device, B: int, N: int, C: int, ratio: int = 4
          ) -> Inputs:
    own: dict[str, Any] = {"dtype": dtype, "device": device}
    weight = torch.randn(C, ratio * C, **own) / (ratio * C) ** 0.5
    return {"hidden": normal(B, N, ratio * C, **own), "weight": weight.requires_grad_(),
            "bias": normal(C, **own),
            "residual": normal(B, N, C, dtype=torch.float32, device=device)}


def _work(*, dtype: torch.dtype, backward: bool, B: int, N: int, C: int, ratio: int = 4) -> Work:
    # Hidden and residual in, result out; backward reads the gradient and hidden and writes the
    # latter's gradient; the weight's gradient reads both again.
    own, wide = ratio * dtype.itemsize, 4
    return Work(bytes=(own + 2 * wide + backward * (3 * own + 2 * wide)) * B * N * C,
                flops=(2 + 4 * backward) * ratio * C * B * N * C)


ENTRY = Entry(
    name="gelu_linear",
    shapes={
        "swin_t_s1_b2": {"B": 2, "N": 67200, "C": 96},
        "swin_t_s2_b2": {"B": 2, "N": 16800, "C": 192},
        "swin_t_s3_b2": {"B": 2, "N": 4200, "C": 384},
        "pvt_s1_b2": {"B": 2, "N": 67200, "C": 64, "ratio": 8},
        "pvt_s2_b2": {"B": 2, "N": 16800, "C": 128, "ratio": 8},
    },
    cpu={"swin_t_s2_b1_480x640": {"B": 1, "N": 4800, "C": 192}},
    tiny={"B": 2, "N": 7, "C": 24},
    make=_make,
    dtypes=("fp16", "bf16"),
    providers=against_reference(lambda x: gelu_linear(x["hidden"], x["weight"], x["bias"],
                                                      x["residual"])),
    work=_work,
    kernels=("gelu_linear_",),
    ledger=("swin_t_s1_b2/bf16", "swin_t_s2_b2/bf16", "pvt_s2_b2/fp16", "swin_t_s3_b2/bf16"),
)
