"""Masks to boxes, run-length codes, and polygons out of one array."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .geometry import coco_mask

__all__ = ["encode_mask_results", "mask2bbox", "split_combined_polys"]


def split_combined_polys(polys: Any, poly_lens: Any, polys_per_mask: Any) -> list[list[Any]]:
    """Polygons of each mask out of one row of numbers for each image.

    Args:
        polys: of each image, all its polygons' numbers in a row.
        poly_lens: of each image, how many numbers each polygon has.
        polys_per_mask: of each image, how many polygons each mask has.
    """
    def split(values: Any, lengths: Any) -> list[Any]:
        ends = np.cumsum([int(n) for n in lengths])
        if len(values) != (ends[-1] if len(ends) else 0):
            raise ValueError(f"split_combined_polys: {len(values)} elements cannot be split into "
                             f"parts of {[int(n) for n in lengths]}")
        return [values[end - int(n):end] for end, n in zip(ends, lengths)]

    return [split(split(*image[:2]), image[2]) for image in zip(polys, poly_lens, polys_per_mask)]


def encode_mask_results(mask_results: Any) -> Any:
    """Bitmaps to COCO's run-length codes.

    Args:
        mask_results: of each class, a list of [H, W] masks; or a pair of that and the masks'
            scores.
    """
    segments = mask_results[0] if isinstance(mask_results, tuple) else mask_results
    encoded = [[coco_mask().encode(np.asfortranarray(np.asarray(m)[:, :, None], dtype=np.uint8))[0]
                for m in masks] for masks in segments]
    return (encoded, mask_results[1]) if isinstance(mask_results, tuple) else encoded


def mask2bbox(masks: Tensor) -> Tensor:
    """The smallest boxes around masks.

    Args:
        masks: [N, H, W], bool or 0 and 1.

    Returns:
        [N, 4], float; zeros for an empty mask.
    """
    def extent(hit: Tensor) -> tuple[Tensor, Tensor]:
        at = torch.arange(hit.shape[1], device=hit.device)
        first = torch.where(hit, at, hit.shape[1]).amin(1)
        last = torch.where(hit, at + 1, 0).amax(1)
        return torch.where(last > 0, first, 0), last

    if masks.shape[0] == 0:
        return masks.new_zeros((0, 4), dtype=torch.float32)
    x1, x2 = extent(masks.bool().any(1))
    y1, y2 = extent(masks.bool().any(2))
    return torch.stack([x1, y1, x2, y2], dim=1).float()
