"""Masks of regions put back into the image."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["paste_masks", "sampled_masks"]

#: Bytes of one number while pasting, and how many bytes may be in use at once on a GPU.
BYTES_PER_FLOAT = 4
GPU_MEM_LIMIT = 1024 ** 3


def sampled_masks(masks: Tensor, boxes: Tensor, img_h: int, img_w: int,
                  skip_empty: bool) -> tuple[Tensor, tuple[slice, ...]]:
    """Masks sampled at the pixels of the image.

    Args:
        masks: [n, 1, h, w], probabilities.
        boxes: [n, 4], where they go, in pixels of the image.
        img_h: height of the image.
        img_w: width of the image.
        skip_empty: sample only the part of the image that holds all of the boxes.

    Returns:
        Probabilities [n, H, W] float32, and the part that was sampled; no slices for all of it.
    """
    x0, y0, x1, y1 = 0, 0, img_w, img_h
    if skip_empty:  # only the smallest part that holds all of the boxes
        low = (boxes[:, :2].amin(0).floor() - 1).clamp(min=0).int().tolist()
        high = (boxes[:, 2:].amax(0).ceil() + 1).int().tolist()
        (x0, y0), x1, y1 = low, min(high[0], img_w), min(high[1], img_h)
    left, top, right, bottom = boxes.split(1, dim=1)

    def axis(start: int, stop: int, low: Tensor, high: Tensor) -> Tensor:
        at = torch.arange(start, stop, device=boxes.device).to(torch.float32) + 0.5
        at = (at - low) / (high - low) * 2 - 1
        return at.masked_fill(at.isinf(), 0)  # a box of no width

    ys, xs = axis(y0, y1, top, bottom), axis(x0, x1, left, right)
    shape = (masks.shape[0], ys.shape[1], xs.shape[1])
    grid = torch.stack([xs[:, None].expand(shape), ys[:, :, None].expand(shape)], dim=3)
    sampled = F.grid_sample(masks.to(torch.float32), grid, align_corners=False)
    return sampled[:, 0], ((slice(y0, y1), slice(x0, x1)) if skip_empty else ())


def paste_masks(masks: Tensor, boxes: Tensor, img_h: int, img_w: int,
                threshold: float) -> np.ndarray:
    """Put masks into the image.

    Args:
        masks: [n, 1, h, w], probabilities.
        boxes: [n, 4], where they go, in pixels of the image.
        img_h: height of the image.
        img_w: width of the image.
        threshold: at least this is the object; if negative, probabilities are kept, as uint8 of
            255 parts.

    Returns:
        [n, img_h, img_w], bool or uint8.
    """
    n, device = len(masks), masks.device
    out = torch.zeros(n, img_h, img_w, device=device,
                      dtype=torch.bool if threshold >= 0 else torch.uint8)
    # On a CPU one at a time, and only around the box; on a GPU as many as fit.
    step = 1 if device.type == "cpu" else max(
        1, GPU_MEM_LIMIT // max(1, img_h * img_w * BYTES_PER_FLOAT))
    for start in range(0, n, step):
        rows = slice(start, start + step)
        part, region = sampled_masks(masks[rows], boxes[rows], img_h, img_w,
                                     device.type == "cpu")
        where = (rows, *region)
        out[where] = (part >= threshold if threshold >= 0 else
                      (part * 255).to(torch.uint8))
    return out.cpu().numpy()
