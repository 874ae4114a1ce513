"""Deformable convolution, against mmcv's algorithm: all columns in memory, one product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastdet.kernels.deform_conv2d import deform_conv2d

from ..entry import Entry, Inputs, Provider, Work, normal
from ..maps import DYHEAD_LEVELS


def deform_conv2d_columns(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor,
                          groups: int) -> Tensor:
    """Modulated deformable convolution by mmcv's algorithm: all columns in memory, one product.

    Stride 1, padding that keeps the size, one deform group. Places and samples are in float32 at
    least; the columns are of the type of ``x``.
    """
    (b, c, h, w), (kh, kw) = x.shape, weight.shape[2:]
    wide = torch.promote_types(x.dtype, torch.float32)
    y, x_, ky, kx = (torch.arange(n, device=x.device, dtype=wide) for n in (h, w, kh, kw))
    offset = offset.to(wide).view(b, kh, kw, 2, h, w)
    rows = offset[:, :, :, 0] + (ky - kh // 2).view(kh, 1, 1, 1) + y.view(h, 1)
    columns = offset[:, :, :, 1] + (kx - kw // 2).view(kw, 1, 1) + x_
    grid = torch.stack([(2 * columns + 1) / w - 1, (2 * rows + 1) / h - 1], -1)
    samples = F.grid_sample(x.to(wide), grid.view(b, -1, w, 2), align_corners=False)
    samples = samples.view(b, c, kh * kw, h * w) * mask.to(wide).view(b, 1, kh * kw, h * w)
    samples = samples.to(x.dtype).view(b, groups, -1, h * w)
    out = weight.view(groups, weight.shape[0] // groups, -1) @ samples
    return out.view(b, -1, h, w) + bias.view(-1, 1, 1)


def _make(*, dtype: torch.dtype, device: torch.device, B: int, C: int, H: int, W: int,
          groups: int = 1) -> Inputs:
    """3 x 3 at stride 1, modulated. No place is a pixel's own, where the gradient jumps."""
    to: dict[str, Any] = {"dtype": dtype, "device": device}
    offset = torch.randint(-2, 2, (B, 18, H, W)) + 0.1 + 0.8 * torch.rand(B, 18, H, W)
    return {"x": normal(B, C, H, W, **to), "offset": offset.to(**to).requires_grad_(),
            "mask": torch.rand(B, 9, H, W, **to).requires_grad_(),
            "weight": (torch.randn(C, C // groups, 3, 3, **to) / (9 * C / groups)**0.5
                       ).requires_grad_(),
            "bias": normal(C, **to), "groups": groups}


def _eager(x: Inputs) -> Tensor:
    return deform_conv2d_columns(x["x"], x["offset"], x["mask"], x["weight"], x["bias"],
                                       x["groups"])


def _fastdet(x: Inputs) -> Tensor:
    return deform_conv2d(x["x"], x["offset"], x["weight"], mask=x["mask"], bias=x["bias"],
                         padding=(1, 1), groups=x["groups"])


def _work(*, dtype: torch.dtype, backward: bool, B: int, C: int, H: int, W: int,
          groups: int = 1) -> Work:
    # Backward reads all inputs and the result's gradient and writes the inputs' gradients, in two
    # products; the sampling is not counted.
    out = B * C * H * W
    inputs = out + B * 27 * H * W + 9 * C * C // groups + C
    return Work(bytes=(inputs + out + backward * (2 * inputs + out)) * dtype.itemsize,
                flops=(1 + 2 * backward) * 2 * 9 * out * C // groups)


ENTRY = Entry(
    name="deform_conv2d",
    shapes={**DYHEAD_LEVELS, "p5_b2": {"B": 2, "C": 256, "H": 25, "W": 42},
            "p4_b2_depthwise": {**DYHEAD_LEVELS["p4_b2"], "groups": 256}},
    cpu={"p5_b1": {"B": 1, "C": 256, "H": 25, "W": 42}},
    tiny={"B": 2, "C": 6, "H": 5, "W": 7, "groups": 2},
    make=_make,
    providers={
        "eager": Provider(_eager),
        "compile": Provider(_eager, compiled=True),
        "fastdet": Provider(_fastdet),
    },
    work=_work,
    kernels=("deform_conv2d_",),
    ledger=("p4_b2/fp32", "p4_b2/fp32+tf32", "p4_b2_depthwise/bf16", "p4_b2/bf16",
            "p4_b2/bf16+deterministic", "p5_b2/bf16"),
)
