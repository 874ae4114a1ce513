"""RoIAlign with maxima, level by level as MMDetection's extractor has it."""

from __future__ import annotations

from torch import Tensor

from fastdet.kernels.roi_align import multi_level_roi_align
from fastdet.kernels.roi_align.reference import roi_align_reference

from ..entry import Entry, Inputs, Provider
from .roi_align import IMAGE, STRIDES, make, maps_of, work


def _eager(x: Inputs) -> Tensor:
    return roi_align_reference(maps_of(x), x["rois"], (x["bins"], x["bins"]),
                               [1 / s for s in STRIDES], pool_mode="max")


def _fastdet(x: Inputs) -> Tensor:
    return multi_level_roi_align(maps_of(x), x["rois"], x["bins"], [1 / s for s in STRIDES],
                                 pool_mode="max")


ENTRY = Entry(
    name="roi_align_max",
    folder="roi_align",
    shapes={"box_max_b2": {**IMAGE, "N": 1024, "bins": 7}},
    tiny={"B": 2, "C": 3, "H": 64, "W": 96, "N": 6, "bins": 2},
    cpu={"box_max": {**IMAGE, "B": 1, "N": 128, "bins": 7}},
    make=make,
    providers={"eager": Provider(_eager, capturable=False), "fastdet": Provider(_fastdet)},
    work=work,
    kernels=("roi_align_",),
    ledger=("box_max_b2/fp32", "box_max_b2/bf16"),
)
