"""One gaussian drawn on one map."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdet.kernels.gaussian_targets import draw_gaussian

from ..entry import Entry, Inputs, Provider
from .gaussian_targets import draw_one_eager


def _make(*, dtype: torch.dtype, device: torch.device, H: int, W: int, x: int, y: int,
          radius: int) -> Inputs:
    return {"heatmap": torch.rand(H, W, device=device).to(dtype), "at": (x, y, radius)}


def _eager(x: Inputs) -> Tensor:
    heatmap = x["heatmap"].clone()
    draw_one_eager(heatmap, *x["at"])
    return heatmap


def _fastdet(x: Inputs) -> Tensor:
    left, top, radius = x["at"]
    return draw_gaussian(x["heatmap"].clone(), (left, top), radius)


ENTRY = Entry(
    name="draw_gaussian",
    folder="gaussian_targets",
    shapes={"128_r20": {"H": 128, "W": 128, "x": 60, "y": 70, "radius": 20}},
    cpu={"128_r20": {"H": 128, "W": 128, "x": 60, "y": 70, "radius": 20}},
    tiny={"H": 9, "W": 7, "x": 5, "y": 2, "radius": 3},
    make=_make,
    providers={"eager": Provider(_eager, capturable=False),
               "fastdet": Provider(_fastdet)},
    dtypes=("fp32", "fp16"),
    trains=False,
    exact=True,
    kernels=("gaussian_targets_",),
    ledger=("128_r20/fp32", "128_r20/fp16"),
)
