"""Sparse R-CNN's dynamic convolution, against MMDetection's step after step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastdet.kernels.dynamic_conv import dynamic_conv

from ..entry import Entry, Inputs, Provider, Work, normal


def dynamic_conv_eager(x: Tensor, params: Tensor, norm_in_weight: Tensor, norm_in_bias: Tensor,
                       norm_out_weight: Tensor, norm_out_bias: Tensor, eps_in: float = 1e-5,
                       eps_out: float = 1e-5) -> Tensor:
    """MMDetection's form: two slices of the parameters, one step after another.

    Also an independent form for the tests.
    """
    feat, out = len(norm_in_weight), len(norm_out_weight)
    p_in = params[:, :x.shape[1] * feat].reshape(-1, x.shape[1], feat)
    p_out = params[:, -feat * out:].reshape(-1, feat, out)
    y = torch.bmm(x.permute(0, 2, 1), p_in)
    y = F.relu(F.layer_norm(y, (feat,), norm_in_weight, norm_in_bias, eps_in), inplace=True)
    y = torch.bmm(y, p_out)
    return F.relu(F.layer_norm(y, (out,), norm_out_weight, norm_out_bias, eps_out), inplace=True)


_NORMS = ("in_weight", "in_bias", "out_weight", "out_bias")


def _make(*, dtype: torch.dtype, device: torch.device, N: int, channels: int, feat: int,
          out: int, S: int) -> Inputs:
    to: dict[str, Any] = {"dtype": dtype, "device": device}
    norms = {name: normal(width, **to) for name, width in zip(_NORMS, (feat, feat, out, out))}
    return {"x": normal(N, channels, S, **to),
            "params": normal(N, (channels + out) * feat, **to), **norms}


def _run(function: Callable[..., Tensor]) -> Callable[[Inputs], Tensor]:
    return lambda x: function(x["x"], x["params"], *(x[name] for name in _NORMS))


def _work(*, dtype: torch.dtype, backward: bool, N: int, channels: int, feat: int,
          out: int, S: int) -> Work:
    # Backward reads the inputs and the result's gradient and writes two gradients, in four
    # products and the first one again.
    inputs, result = N * (channels * S + (channels + out) * feat), N * S * out
    first, second = 2 * N * S * channels * feat, 2 * N * S * feat * out
    return Work(bytes=(inputs + result + backward * (2 * inputs + result)) * dtype.itemsize,
                flops=first + second + backward * (3 * first + 2 * second))


_PROPOSALS = {"channels": 256, "feat": 64, "out": 256, "S": 49}

ENTRY = Entry(
    name="dynamic_conv",
    shapes={"sparse_rcnn_b8": {"N": 2400, **_PROPOSALS},
            "sparse_rcnn_b1": {"N": 300, **_PROPOSALS}},
    cpu={"sparse_rcnn_100": {"N": 100, **_PROPOSALS}},
    tiny={"N": 3, "channels": 12, "feat": 5, "out": 9, "S": 4},
    make=_make,
    providers={
        "eager": Provider(_run(dynamic_conv_eager)),
        "compile": Provider(_run(dynamic_conv_eager), compiled=True),
        "fastdet": Provider(_run(dynamic_conv)),
    },
    work=_work,
    kernels=("dynamic_conv_",),
    ledger=("sparse_rcnn_b1/fp32", "sparse_rcnn_b1/fp32+tf32", "sparse_rcnn_b1/fp16",
            "sparse_rcnn_b1/bf16"),
)
