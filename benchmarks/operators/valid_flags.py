"""Which anchors lie on an image, against MMDetection's image by image, level by level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.kernels.grid_priors import level_rows, split_levels
from fastdet.kernels.valid_flags import valid_flags

from ..entry import Entry, Inputs, Provider, Work
from ..maps import pyramid


def valid_flags_eager(sizes: Sequence[tuple[int, int]], strides: Sequence[tuple[int, int]],
                      pad_shapes: Sequence[tuple[int, int]], anchors: Sequence[int],
                      device: torch.device) -> list[list[Tensor]]:
    """Valid flags as MMDetection makes them: image by image, level by level."""
    out = []
    for pad_h, pad_w in pad_shapes:
        levels = []
        for (h, w), (step_x, step_y), a in zip(sizes, strides, anchors):
            x = torch.zeros(w, dtype=torch.bool, device=device)
            y = torch.zeros(h, dtype=torch.bool, device=device)
            x[: min(math.ceil(pad_w / step_x), w)] = 1
            y[: min(math.ceil(pad_h / step_y), h)] = 1
            both = x.repeat(h) & y.view(-1, 1).repeat(1, w).view(-1)
            levels.append(both[:, None].expand(h * w, a).contiguous().view(-1))
        out.append(levels)
    return out


def _make(*, dtype: torch.dtype, device: torch.device, pad_shapes: list[tuple[int, int]],
          **pyramid: Any) -> Inputs:
    return {"pad_shapes": pad_shapes, "device": device, **pyramid}


def _eager(x: Inputs) -> list[list[Tensor]]:
    return valid_flags_eager(x["sizes"], x["strides"], x["pad_shapes"], x["counts"],
                                   x["device"])


def _fastdet(x: Inputs) -> list[list[Tensor]]:
    valid = [[(min(math.ceil(height / step_y), h), min(math.ceil(width / step_x), w))
              for (h, w), (step_x, step_y) in zip(x["sizes"], x["strides"])]
             for height, width in x["pad_shapes"]]
    flags = valid_flags(valid, x["counts"], x["sizes"], device=x["device"])
    rows = level_rows(x["sizes"], x["counts"])
    return [split_levels(image, rows) for image in flags]


def _work(*, dtype: torch.dtype, backward: bool, pad_shapes: list[tuple[int, int]],
          sizes: list[tuple[int, int]], counts: list[int], **_: Any) -> Work:
    return Work(bytes=len(pad_shapes) * sum(level_rows(sizes, counts)), flops=0)


#: Eight images of one batch, each padded to a multiple of 32 of its own.
_PADS = [(800, 1216), (800, 1344), (768, 1344), (800, 1088), (640, 1344), (800, 800),
         (800, 1200), (544, 1344)]

ENTRY = Entry(
    name="valid_flags",
    shapes={"retinanet_800x1344_b2": {**pyramid(800, 1344), "pad_shapes": _PADS[:2]},
            "retinanet_800x1344_b8": {**pyramid(800, 1344), "pad_shapes": _PADS}},
    cpu={"retinanet_800x1344_b2": {**pyramid(800, 1344), "pad_shapes": _PADS[:2]}},
    tiny={"sizes": [(3, 5), (2, 3)], "strides": [(8, 8), (16, 16)], "counts": [3, 2],
          "pad_shapes": [(12, 33), (24, 20)]},
    make=_make,
    providers={
        "eager": Provider(_eager),
        "compile": Provider(_eager, compiled=True),
        "fastdet": Provider(_fastdet),
    },
    dtypes=("fp32",),
    trains=False,
    exact=True,
    work=_work,
    kernels=("valid_flags_",),
    ledger=("retinanet_800x1344_b2/fp32",),
)
