"""Batched NMS of a fixed size, against the boxes moved apart and torchvision's operator.

The yardstick is what MMDetection calls: classes moved apart by the largest coordinate, one plain
suppression, the best kept. Its inner loop is mmcv's, in Python.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdet.compat.torchvision_ops import binary_loads
from fastdet.kernels.nms import batched_nms_padded
from fastdet.kernels.nms.reference import nms_reference

from ..entry import Entry, Inputs, Provider, Work

IOU = 0.7


def _make(*, dtype: torch.dtype, device: torch.device, B: int, groups: int, each: int,
          keep: int) -> Inputs:
    """``each`` boxes of 8 to 200 pixels in each group of an 800 x 1344 image."""
    n = groups * each
    corner = torch.rand(B, n, 2) * torch.tensor([1144.0, 600.0])
    boxes = torch.cat([corner, corner + 8 + 192 * torch.rand(B, n, 2)], 2)
    group = torch.arange(groups).repeat_interleave(each).expand(B, n)
    return {"boxes": boxes.to(device, dtype), "scores": torch.rand(B, n).to(device, dtype),
            "groups": group.contiguous().to(device), "keep": keep}


def _pad(kept: list[Tensor], size: int) -> list[Tensor]:
    out = [torch.cat([one[:size], one.new_zeros(size - len(one[:size]))]) for one in kept]
    return [torch.stack(out), torch.tensor([len(one[:size]) for one in kept])]


def _size(x: Inputs) -> int:
    return min(x["keep"], x["boxes"].shape[1])


def _eager(x: Inputs) -> list[Tensor]:
    kept = []
    for boxes, scores, groups in zip(x["boxes"], x["scores"], x["groups"]):
        order = scores.sort(descending=True, stable=True).indices
        kept.append(order[nms_reference(boxes[order], groups[order], IOU, 0)])
    return _pad(kept, _size(x))


def _torchvision(x: Inputs) -> list[Tensor]:
    from torchvision.ops import batched_nms

    return _pad([batched_nms(boxes, scores, groups, IOU) for boxes, scores, groups
                 in zip(x["boxes"], x["scores"], x["groups"])], _size(x))


def _fastdet(x: Inputs) -> list[Tensor]:
    return list(batched_nms_padded(x["boxes"], x["scores"], x["groups"], IOU, x["keep"]))


def _work(*, dtype: torch.dtype, backward: bool, B: int, groups: int, each: int, keep: int
          ) -> Work:
    pairs = B * groups * each * (each - 1) // 2
    return Work(bytes=B * groups * each * (5 * dtype.itemsize + 8) + pairs // 4, flops=16 * pairs)


_PROVIDERS: dict[str, Any] = {"eager": Provider(_eager, capturable=False),
                              "fastdet": Provider(_fastdet)}
if binary_loads():
    _PROVIDERS["torchvision"] = Provider(_torchvision, capturable=False)

ENTRY = Entry(
    name="nms",
    shapes={"rpn_b2": {"B": 2, "groups": 5, "each": 2000, "keep": 1000},
            "classes_b2": {"B": 2, "groups": 80, "each": 100, "keep": 100},
            "one_group": {"B": 1, "groups": 1, "each": 10000, "keep": 1000}},
    cpu={"rpn_small": {"B": 1, "groups": 5, "each": 200, "keep": 1000}},
    tiny={"B": 2, "groups": 3, "each": 20, "keep": 30},
    make=_make,
    providers=_PROVIDERS,
    trains=False,
    exact=True,
    absent={} if binary_loads() else {"torchvision": "its own binary is not installed or does not "
                                      "fit this torch"},
    work=_work,
    kernels=("nms_",),
    ledger=("one_group/fp32", "classes_b2/bf16", "rpn_b2/fp32"),
)
