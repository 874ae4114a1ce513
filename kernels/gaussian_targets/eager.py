"""MMDetection's algorithm for CenterNet's targets, one box after the other.

The peer of the benchmarks and an independent form for the tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .reference import gaussian_radius


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
