"""Functions on anchors and on targets per anchor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["anchor_inside_flags", "calc_region", "images_to_levels"]


def images_to_levels(target: Sequence[Tensor], num_levels: Sequence[int]) -> list[Tensor]:
    """Turn targets per image into targets per feature level.

    Args:
        target: one tensor [N, ...] per image, all of one shape.
        num_levels: priors of each level; they sum to N.

    Returns:
        One tensor [B, n, ...] per level.

    Raises:
        ValueError: the levels do not sum to the images' N.
    """
    stacked = torch.stack(list(target), 0)
    if stacked.size(1) != sum(num_levels):
        raise ValueError(f"the levels have {sum(num_levels)} priors, but the targets of an image "
                         f"have {stacked.size(1)}")
    return list(stacked.split(list(num_levels), 1))


def anchor_inside_flags(flat_anchors: Tensor, valid_flags: Tensor, img_shape: Sequence[int],
                        allowed_border: float = 0) -> Tensor:
    """Mark the anchors that lie inside the image.

    Args:
        flat_anchors: [N, 4] boxes (x1, y1, x2, y2) in pixels.
        valid_flags: [N] flags that the result narrows.
        img_shape: (height, width, ...) of the image.
        allowed_border: pixels by which an anchor may overhang; if negative, any anchor may.

    Returns:
        [N] flags: ``valid_flags`` where the anchor is inside.
    """
    if allowed_border < 0:
        return valid_flags
    img_h, img_w = img_shape[:2]
    x1, y1, x2, y2 = flat_anchors[:, :4].unbind(1)
    return (valid_flags & (x1 >= -allowed_border) & (y1 >= -allowed_border)
            & (x2 < img_w + allowed_border) & (y2 < img_h + allowed_border))


def calc_region(bbox: Tensor, ratio: float, featmap_size: Sequence[int] | None = None
                ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shrink a box about its centre and round it to integers.

    Args:
        bbox: a box (x1, y1, x2, y2), or [4, ...] with one of them per leading index.
        ratio: how far each side moves, as a share of the box: 0 keeps it, 0.5 meets the centre.
        featmap_size: (height, width) that the result is clamped to, if given.

    Returns:
        x1, y1, x2 and y2 as int64.
    """
    x1, y1, x2, y2 = bbox[0], bbox[1], bbox[2], bbox[3]
    region = [torch.round((1 - ratio) * a + ratio * b).long()
              for a, b in ((x1, x2), (y1, y2), (x2, x1), (y2, y1))]
    if featmap_size is not None:
        h, w = featmap_size[:2]
        region = [v.clamp(min=0, max=limit) for v, limit in zip(region, (w, h, w, h))]
    return region[0], region[1], region[2], region[3]
