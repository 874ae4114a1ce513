"""Max-IoU assignment of RetinaNet's anchors, against the matrix and its loop over gts."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdet.core.anchor import AnchorGenerator
from fastdet.kernels.max_iou_assign import max_iou_assign
from fastdet.kernels.max_iou_assign.reference import Rule, max_iou_assign_reference

from ..entry import Entry, Inputs, Provider, Work, by_reference

RULE = Rule(pos_iou_thr=0.5, neg_low=0.0, neg_high=0.4, min_pos_iou=0.0, match_low_quality=True,
            gt_max_assign_all=True, ignore_iof_thr=-1, ignore_wrt_candidates=True)


def _make(*, dtype: torch.dtype, device: torch.device, B: int, H: int, W: int, G: int) -> Inputs:
    strides = (8, 16, 32, 64, 128)
    generator = AnchorGenerator(list(strides), ratios=[0.5, 1.0, 2.0], octave_base_scale=4,
                                scales_per_octave=3)
    with by_reference():
        boxes = torch.cat(generator.grid_priors([(-(-H // s), -(-W // s)) for s in strides],
                                                device="cpu"))
    low = torch.rand(B, G, 2) * torch.tensor([W, H]) * 0.8
    gts = torch.cat([low, low + 8 + torch.rand(B, G, 2) * torch.tensor([W, H]) * 0.4], 2)
    return {"boxes": boxes.to(device, dtype), "gts": gts.to(device, dtype),
            "counts": torch.full((B,), G, dtype=torch.int32, device=device)}


def _eager(x: Inputs) -> tuple[Tensor, Tensor]:
    parts = [max_iou_assign_reference(x["boxes"], gts, RULE) for gts in x["gts"]]
    assigned, largest = zip(*parts)
    return torch.stack(assigned), torch.stack(largest)


def _fastdet(x: Inputs) -> tuple[Tensor, Tensor]:
    return max_iou_assign(x["boxes"], x["gts"], x["counts"], pos_iou_thr=RULE.pos_iou_thr,
                          neg_iou_thr=RULE.neg_high)[:2]


def _work(*, dtype: torch.dtype, backward: bool, B: int, H: int, W: int, G: int) -> Work:
    anchors = 9 * sum(-(-H // s) * -(-W // s) for s in (8, 16, 32, 64, 128))
    # Boxes in, overlaps and an int64 out for each image; two IoUs of 14 operations a pair.
    return Work(bytes=anchors * (16 + B * 12), flops=2 * 14 * B * anchors * G)


_IMAGE = {"H": 800, "W": 1344}

ENTRY = Entry(
    name="max_iou_assign",
    shapes={"retina_b2": {**_IMAGE, "B": 2, "G": 50}, "crowd_b1": {**_IMAGE, "B": 1, "G": 500}},
    tiny={"B": 2, "H": 64, "W": 96, "G": 3},
    cpu={"retina": {**_IMAGE, "B": 1, "G": 50}},
    make=_make,
    providers={"eager": Provider(_eager, capturable=False), "fastdet": Provider(_fastdet)},
    dtypes=("fp32",),
    trains=False,
    exact=True,
    work=_work,
    kernels=("max_iou_assign_",),
    ledger=("retina_b2/fp32",),
)
