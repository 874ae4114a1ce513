"""Anchors of all levels, against MMDetection's level by level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.kernels.grid_priors import grid_anchors, level_rows, split_levels

from ..entry import Entry, Inputs, Provider, Work
from ..maps import pyramid


def grid_priors_eager(base: Sequence[Tensor], sizes: Sequence[tuple[int, int]],
                      strides: Sequence[tuple[int, int]], device: torch.device) -> list[Tensor]:
    """Anchors as MMDetection makes them: level by level, some ten operations each.

    The base anchors stay on the CPU and move to the device at every call, as they do there.
    """
    out, dtype = [], base[0].dtype
    for cell, (h, w), (step_x, step_y) in zip(base, sizes, strides):
        x = torch.arange(0, w, device=device).to(dtype) * step_x
        y = torch.arange(0, h, device=device).to(dtype) * step_y
        xx = x.repeat(h)
        yy = y.view(-1, 1).repeat(1, w).view(-1)
        shifts = torch.stack([xx, yy, xx, yy], dim=-1)
        moved = cell.to(device)[None] + shifts[:, None]
        out.append(moved.view(-1, 4))
    return out


def _make(*, dtype: torch.dtype, device: torch.device, sizes: list[tuple[int, int]],
          strides: list[tuple[int, int]], counts: list[int]) -> Inputs:
    cells = [4 * x * torch.randn(a, 4) for (x, _), a in zip(strides, counts)]
    cells = [cell.to(dtype) for cell in cells]
    return {"cells": cells, "base": torch.cat(cells).to(device), "sizes": sizes,
            "strides": strides, "counts": counts, "device": device}


def _eager(x: Inputs) -> list[Tensor]:
    return grid_priors_eager(x["cells"], x["sizes"], x["strides"], x["device"])


def _fastdet(x: Inputs) -> list[Tensor]:
    flat = grid_anchors(x["base"], x["counts"], x["sizes"], x["strides"])
    return split_levels(flat, level_rows(x["sizes"], x["counts"]))


def _work(*, dtype: torch.dtype, backward: bool, sizes: list[tuple[int, int]],
          counts: list[int], **_: Any) -> Work:
    rows = sum(level_rows(sizes, counts))
    return Work(bytes=4 * rows * dtype.itemsize, flops=4 * rows)


ENTRY = Entry(
    name="grid_priors",
    shapes={"retinanet_800x1344": pyramid(800, 1344)},
    cpu={"retinanet_800x1344": pyramid(800, 1344)},
    tiny={"sizes": [(3, 5), (2, 3)], "strides": [(8, 8), (16, 16)], "counts": [3, 2]},
    make=_make,
    providers={
        "eager": Provider(_eager, capturable=False),
        "compile": Provider(_eager, compiled=True, capturable=False),
        "fastdet": Provider(_fastdet),
    },
    trains=False,
    exact=True,
    work=_work,
    kernels=("grid_anchors_",),
    ledger=("retinanet_800x1344/fp32", "retinanet_800x1344/fp16", "retinanet_800x1344/bf16"),
)
