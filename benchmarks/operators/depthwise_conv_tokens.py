"""PVTv2's depthwise convolution between linear layers, against cuDNN's on a map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastdet.kernels.depthwise_conv_tokens import depthwise_conv_tokens

from ..entry import Entry, Inputs, Provider, Work, by_reference, normal


def depthwise_conv_tokens_eager(x: Tensor, weight: Tensor, bias: Tensor, hw_shape: tuple[int, int],
                                gelu: bool) -> Tensor:
    """On a contiguous map, to which tokens are copied, and from which the result is.

    Also an independent form for the tests.
    """
    maps = x.transpose(1, 2).reshape(x.shape[0], x.shape[2], *hw_shape)
    out = F.conv2d(maps, weight, bias, padding=1, groups=x.shape[2])
    out = F.gelu(out) if gelu else out
    return out.flatten(2).transpose(1, 2).contiguous()


def _make(*, dtype: torch.dtype, device: torch.device, B: int, H: int, W: int, C: int,
          gelu: bool) -> Inputs:
    own: dict[str, Any] = {"dtype": dtype, "device": device}
    return {"x": normal(B, H * W, C, **own), "weight": normal(C, 1, 3, 3, **own),
            "bias": normal(C, **own), "hw_shape": (H, W), "gelu": gelu}


def _eager(x: Inputs) -> Tensor:
    return depthwise_conv_tokens_eager(x["x"], x["weight"], x["bias"], x["hw_shape"], x["gelu"])


def _fastdet(x: Inputs) -> Tensor:
    return depthwise_conv_tokens(x["x"], x["weight"], x["bias"], x["hw_shape"], gelu=x["gelu"])


def _work(*, dtype: torch.dtype, backward: bool, B: int, H: int, W: int, C: int, gelu: bool
          ) -> Work:
    # Map in, result out; backward reads the gradient and the map and writes the map's gradient.
    elements = B * H * W * C
    return Work(bytes=(2 + 3 * backward) * elements * dtype.itemsize,
                flops=(18 + 36 * backward) * elements)


ENTRY = Entry(
    name="depthwise_conv_tokens",
    shapes={  # PVTv2-B1 on two images of 800 x 1344; stages 1 to 3 leave the GELU to gelu_linear
        "pvtv2_s1_b2": {"B": 2, "H": 200, "W": 336, "C": 512, "gelu": False},
        "pvtv2_s2_b2": {"B": 2, "H": 100, "W": 168, "C": 1024, "gelu": False},
        "pvtv2_s3_b2": {"B": 2, "H": 50, "W": 84, "C": 1280, "gelu": False},
        "pvtv2_s4_b2": {"B": 2, "H": 25, "W": 42, "C": 2048, "gelu": True},
    },
    cpu={"pvtv2_s3_b1_480x640": {"B": 1, "H": 30, "W": 40, "C": 1280, "gelu": True}},
    tiny={"B": 2, "H": 5, "W": 9, "C": 24, "gelu": True},
    make=_make,
    providers={
        "eager": Provider(_eager),
        "compile": Provider(_eager, compiled=True),
        "channels_last": Provider(_fastdet, context=by_reference),
        "fastdet": Provider(_fastdet),
    },
    work=_work,
    kernels=("depthwise_conv_tokens_",),
    ledger=("pvtv2_s4_b2/fp32", "pvtv2_s2_b2/bf16"),
)
