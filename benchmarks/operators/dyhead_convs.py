"""The deformable convolutions of a DyHead block, against one after the other in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdet.kernels.dyhead_convs import dyhead_convs

from ..entry import Entry, Inputs, Work, against_reference
from ..maps import DYHEAD, DYHEAD_CPU, halves


def _make(*, dtype: torch.dtype, device: torch.device, B: int, C: int, H: int, W: int,
          levels: int) -> Inputs:
    """No place is a pixel's own, where the gradient jumps; maps as a block has them, channels last.
    """
    inputs: Inputs = {"levels": levels}
    for i, size in enumerate(halves(H, W, levels)):
        x = torch.randn(B, C, *size, dtype=dtype, device=device)
        inputs[f"x{i}"] = x.contiguous(memory_format=torch.channels_last).requires_grad_()
        offset = torch.randint(-2, 2, (B, 18, *size)) + 0.1 + 0.8 * torch.rand(B, 18, *size)
        numbers = torch.cat([offset, torch.randn(B, 9, *size)], 1)
        inputs[f"numbers{i}"] = numbers.to(device, dtype).requires_grad_()
    for name in ("mid", "low", "high"):
        weight = torch.randn(C, C, 3, 3, device=device) / (3 * C**0.5)
        inputs[name] = weight.to(dtype).requires_grad_()
    return inputs


def _run(x: Inputs) -> Tensor:
    levels = range(x["levels"])
    return dyhead_convs([x[f"x{i}"] for i in levels], [x[f"numbers{i}"] for i in levels],
                        [x[name] for name in ("mid", "low", "high")]).maps


def _work(*, dtype: torch.dtype, backward: bool, B: int, C: int, H: int, W: int,
          levels: int) -> Work:
    # Backward reads all inputs and the result's gradient and writes the inputs' gradients, in two
    # products; the sampling is not counted.
    pixels = [B * h * w for h, w in halves(H, W, levels)]
    out = C * (3 * sum(pixels) - 2 * pixels[0])
    inputs = sum(pixels) * (C + 27) + 27 * C * C
    return Work(bytes=(inputs + out + backward * (2 * inputs + out)) * dtype.itemsize,
                flops=(1 + 2 * backward) * 2 * 9 * out * C)


ENTRY = Entry(
    name="dyhead_convs",
    shapes=DYHEAD,
    cpu=DYHEAD_CPU,
    tiny={"B": 2, "C": 6, "H": 5, "W": 7, "levels": 2},
    make=_make,
    providers=against_reference(_run),
    work=_work,
    kernels=("dyhead_convs_",),
    ledger=("b2/fp32", "b2/fp32+tf32", "b2/bf16+deterministic", "b2/bf16"),
)
