"""CenterNet's targets, against MMDetection's one box after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.kernels.gaussian_targets import centernet_targets
from fastdet.kernels.gaussian_targets.reference import gaussian_radius

from ..entry import Entry, Inputs, Provider, Work


def gaussian_disc(radius: int, sigma: float, dtype: torch.dtype,
                  device: torch.device | str) -> Tensor:
    """exp(-d^2 / (2 sigma^2)) on [2 radius + 1, 2 radius + 1], zero below eps times its peak."""
    side = torch.arange(-radius, radius + 1, dtype=dtype, device=device)
    square = side[None] * side[None] + side[:, None] * side[:, None]
    disc = torch.exp(-square / (2 * sigma * sigma))
    disc[disc < torch.finfo(disc.dtype).eps * disc.max()] = 0
    return disc


def draw_one_eager(heatmap: Tensor, x: int, y: int, radius: int, k: float = 1) -> None:
    """Raise one [H, W] map to one gaussian, in place."""
    h, w = heatmap.shape
    disc = gaussian_disc(radius, (2 * radius + 1) / 6, heatmap.dtype, heatmap.device)
    top, bottom = max(0, y - radius), min(h, y + radius + 1)
    left, right = max(0, x - radius), min(w, x + radius + 1)
    if top < bottom and left < right:
        patch = heatmap[top:bottom, left:right]
        shift_y, shift_x = y - radius, x - radius
        crop = disc[top - shift_y:bottom - shift_y, left - shift_x:right - shift_x]
        patch.copy_(torch.maximum(patch, crop * k))


def centernet_targets_eager(
    gt_bboxes: Sequence[Tensor], gt_labels: Sequence[Tensor], feat_shape: Sequence[int],
    img_shape: Sequence[int], min_overlap: float = 0.3,
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """CenterNet's targets as MMDetection computes them: a Python loop over images and boxes."""
    b, c, h, w = feat_shape
    ratio_w, ratio_h = w / img_shape[1], h / img_shape[0]
    like = gt_bboxes[-1]
    heat = like.new_zeros(b, c, h, w)
    size, offset, weight = (like.new_zeros(b, 2, h, w) for _ in range(3))
    for i, (boxes, labels) in enumerate(zip(gt_bboxes, gt_labels)):
        centers = torch.stack([(boxes[:, 0] + boxes[:, 2]) * ratio_w / 2,
                               (boxes[:, 1] + boxes[:, 3]) * ratio_h / 2], 1)
        for box, label, (cx, cy) in zip(boxes, labels, centers):
            x, y = cx.int(), cy.int()
            box_h, box_w = (box[3] - box[1]) * ratio_h, (box[2] - box[0]) * ratio_w
            radius = max(0, int(gaussian_radius(box_h, box_w, min_overlap)))
            draw_one_eager(heat[i, label], int(x), int(y), radius)
            size[i, 0, y, x], size[i, 1, y, x] = box_w, box_h
            offset[i, 0, y, x], offset[i, 1, y, x] = cx - x, cy - y
            weight[i, :, y, x] = 1
    return heat, size, offset, weight, max(1, int(heat.eq(1).sum()))


def _make(*, dtype: torch.dtype, device: torch.device, B: int, classes: int, H: int,
          W: int, boxes: int) -> Inputs:
    """``boxes`` to an image, of all sizes, on an input four times the map."""
    corner = torch.rand(B, boxes, 2) * torch.tensor([2.8 * W, 2.8 * H])
    size = 4 + torch.rand(B, boxes, 2) * torch.tensor([1.1 * W, 1.1 * H])
    gt = torch.cat([corner, corner + size], 2).to(device, dtype)
    labels = torch.randint(classes, (B, boxes)).to(device)
    return {"boxes": list(gt), "labels": list(labels), "feat": (B, classes, H, W),
            "image": (4 * H, 4 * W)}


def _eager(x: Inputs) -> list[Tensor]:
    *maps, ones = centernet_targets_eager(x["boxes"], x["labels"], x["feat"], x["image"])
    return [*maps, torch.tensor(ones)]


def _fastdet(x: Inputs) -> list[Tensor]:
    target, ones = centernet_targets(x["boxes"], x["labels"], x["feat"], x["image"])
    names = ("center_heatmap_target", "wh_target", "offset_target", "wh_offset_target_weight")
    return [*(target[name] for name in names), ones]


def _work(*, dtype: torch.dtype, backward: bool, B: int, classes: int, H: int, W: int,
          **_: Any) -> Work:
    return Work(bytes=B * (classes + 6) * H * W * dtype.itemsize, flops=0)


ENTRY = Entry(
    name="gaussian_targets",
    shapes={"centernet_128_b16": {"B": 16, "classes": 80, "H": 128, "W": 128, "boxes": 7}},
    cpu={"centernet_128_b2": {"B": 2, "classes": 80, "H": 128, "W": 128, "boxes": 7}},
    tiny={"B": 2, "classes": 3, "H": 8, "W": 12, "boxes": 2},
    make=_make,
    # The loop waits for the device at every box: no graph holds it and no compiler helps it.
    providers={"eager": Provider(_eager, capturable=False),
               "fastdet": Provider(_fastdet)},
    dtypes=("fp32",),
    trains=False,
    exact=True,
    work=_work,
    kernels=("gaussian_targets_", "centernet_discs_"),
    ledger=("centernet_128_b16/fp32",),
)
