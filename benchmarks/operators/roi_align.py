"""RoIAlign over a pyramid, level by level as MMDetection's extractor has it, and torchvision's."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdet.compat.torchvision_ops import binary_loads
from fastdet.kernels.roi_align import multi_level_roi_align
from fastdet.kernels.roi_align.reference import roi_align_reference, roi_levels

from ..entry import Entry, Inputs, Provider, Work, normal

STRIDES = (4, 8, 16, 32)


def make(*, dtype: torch.dtype, device: torch.device, B: int, C: int, H: int, W: int, N: int,
         bins: int) -> Inputs:
    """``N`` regions of 16 to 512 pixels on images of H x W, as a region proposal network's."""
    size = torch.exp(torch.rand(N, 2) * 3.5 + 2.8)
    center = torch.rand(N, 2) * torch.tensor([W, H])
    boxes = torch.cat([center - size / 2, center + size / 2], 1).clamp(min=0)
    boxes = torch.minimum(boxes, torch.tensor([W, H, W, H]))
    rois = torch.cat([(torch.arange(N) % B)[:, None], boxes], 1).to(device)
    maps = {f"p{i + 2}": normal(B, C, -(-H // s), -(-W // s), dtype=dtype, device=device)
            for i, s in enumerate(STRIDES)}
    return {**maps, "rois": rois, "bins": bins}


def maps_of(x: Inputs) -> list[Tensor]:
    return [x[f"p{i + 2}"] for i in range(len(STRIDES))]


def _eager(x: Inputs) -> Tensor:
    return roi_align_reference(maps_of(x), x["rois"], (x["bins"], x["bins"]),
                               [1 / s for s in STRIDES])


def _torchvision(x: Inputs) -> Tensor:
    from torchvision.ops import roi_align

    levels = roi_levels(x["rois"], len(STRIDES), 56)
    out = x["p2"].new_zeros(len(levels), x["p2"].shape[1], x["bins"], x["bins"])
    for i, (feat, stride) in enumerate(zip(maps_of(x), STRIDES)):
        mine = (levels == i).nonzero()[:, 0]
        out = out.index_put((mine,), roi_align(feat, x["rois"][mine].to(feat.dtype), x["bins"],
                                               1 / stride, aligned=True))
    return out


def _fastdet(x: Inputs) -> Tensor:
    return multi_level_roi_align(maps_of(x), x["rois"], x["bins"], [1 / s for s in STRIDES])


def work(*, dtype: torch.dtype, backward: bool, B: int, C: int, H: int, W: int, N: int,
         bins: int) -> Work:
    # The maps once, of which the regions may cover all, and the result; backward, the result's
    # gradient and the maps'. Some two samples a bin and axis, of four products and sums.
    maps = sum(-(-H // s) * -(-W // s) for s in STRIDES) * B * C
    out = N * C * bins * bins
    return Work(bytes=(1 + backward) * (maps + out) * dtype.itemsize,
                flops=(1 + backward) * out * 4 * 8)


IMAGE = {"B": 2, "C": 256, "H": 800, "W": 1344}

ENTRY = Entry(
    name="roi_align",
    shapes={"box_b2": {**IMAGE, "N": 1024, "bins": 7}, "mask_b2": {**IMAGE, "N": 256,
                                                                    "bins": 14}},
    tiny={"B": 2, "C": 3, "H": 64, "W": 96, "N": 6, "bins": 2},
    cpu={"box_16": {**IMAGE, "B": 1, "H": 320, "W": 480, "N": 16, "bins": 7}},
    make=make,
    providers={
        "eager": Provider(_eager, capturable=False),
        "fastdet": Provider(_fastdet),
        **({"torchvision": Provider(_torchvision, capturable=False)}
           if binary_loads() else {}),
    },
    absent={} if binary_loads() else {"torchvision": "its own binary is not installed or does not "
                                      "fit this torch"},
    work=work,
    kernels=("roi_align_",),
    ledger=("box_b2/fp32", "box_b2/bf16"),
)
