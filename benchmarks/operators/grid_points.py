"""Points of all levels, against MMDetection's level by level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.kernels.grid_priors import grid_points, level_rows, split_levels

from ..entry import Entry, Inputs, Provider, Work
from ..maps import pyramid


def grid_points_eager(sizes: Sequence[tuple[int, int]], strides: Sequence[tuple[int, int]],
                      dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Points (x, y, stride, stride) as MMDetection makes them, level by level."""
    out = []
    for (h, w), (step_x, step_y) in zip(sizes, strides):
        x = ((torch.arange(0, w, device=device) + 0.5) * step_x).to(dtype)
        y = ((torch.arange(0, h, device=device) + 0.5) * step_y).to(dtype)
        xx = x.repeat(h)
        yy = y.view(-1, 1).repeat(1, w).view(-1)
        stride_x = xx.new_full((xx.shape[0],), step_x)
        stride_y = xx.new_full((yy.shape[0],), step_y)
        out.append(torch.stack([xx, yy, stride_x, stride_y], dim=-1))
    return out


def _run(function: Callable[..., list[Tensor]]) -> Callable[[Inputs], list[Tensor]]:
    def run(x: Inputs) -> list[Tensor]:
        return function(x["sizes"], x["strides"], x["dtype"], x["device"])
    return run


def _fastdet(sizes: Sequence[tuple[int, int]], strides: Sequence[tuple[int, int]],
             dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    flat = grid_points(sizes, strides, dtype=dtype, device=device, stride_columns=2)
    return split_levels(flat, level_rows(sizes, [1] * len(sizes)))


def _make(*, dtype: torch.dtype, device: torch.device, sizes: list[tuple[int, int]],
          strides: list[tuple[int, int]], **_: Any) -> Inputs:
    return {"sizes": sizes, "strides": strides, "dtype": dtype, "device": device}


def _work(*, dtype: torch.dtype, backward: bool, sizes: list[tuple[int, int]], counts: list[int],
          **_: Any) -> Work:
    rows = sum(level_rows(sizes, counts))
    return Work(bytes=4 * rows * dtype.itemsize, flops=4 * rows)


ENTRY = Entry(
    name="grid_points",
    folder="grid_priors",
    shapes={"fcos_800x1344": {**pyramid(800, 1344), "counts": [1] * 5}},
    cpu={"fcos_800x1344": {**pyramid(800, 1344), "counts": [1] * 5}},
    tiny={"sizes": [(3, 5), (2, 3)], "strides": [(8, 8), (16, 16)]},
    make=_make,
    providers={
        "eager": Provider(_run(grid_points_eager)),
        "compile": Provider(_run(grid_points_eager), compiled=True),
        "fastdet": Provider(_run(_fastdet)),
    },
    trains=False,
    exact=True,
    work=_work,
    kernels=("grid_points_",),
    ledger=("fcos_800x1344/fp32", "fcos_800x1344/bf16"),
)
