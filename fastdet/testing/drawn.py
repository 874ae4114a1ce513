"""Tensors, boxes, masks and whole batches that are drawn by name, the same everywhere."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdet.core.mask import BitmapMasks, PolygonMasks

__all__ = ["batch", "bitmaps", "boxes", "draw", "outlines", "polygons"]

Spec = dict[str, Any]


def draw(name: str, shape: Sequence[int], kind: str = "normal") -> Tensor:
    """The float64 tensor that NumPy's Mersenne Twister draws under ``name``.

    Args:
        name: seeds the generator.
        shape: of the tensor; of boxes their number alone is read.
        kind: ``'normal'``, ``'uniform'`` in [0, 1), or ``'boxes'``: [n, 4] corners inside an
            image 300 high and 400 wide.
    """
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if kind == "normal":
        return torch.from_numpy(np.asarray(random.standard_normal(tuple(shape))))
    if kind == "uniform":
        return torch.from_numpy(np.asarray(random.random_sample(tuple(shape))))
    assert kind == "boxes", kind
    cx, cy, w, h = (random.random_sample(shape[0]) for _ in range(4))
    cx, cy, w, h = cx * 400, cy * 300, 4 + w * 120, 4 + h * 120
    corners = np.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], axis=1)
    return torch.from_numpy(corners.clip([0, 0, 0, 0], [400, 300, 400, 300]))


def boxes(name: str, num: int, height: float, width: float, small: float = 10.0,
          large: float = 0.7) -> Tensor:
    """[num, 4] float32 corners inside an image.

    Args:
        name: seeds the generator.
        num: how many.
        height: of the image.
        width: of the image.
        small: the shortest side, in pixels.
        large: the longest side, as a share of the image's.
    """
    drawn = draw(name, (max(num, 1), 4), "uniform")[:num].numpy()
    image = np.array([width, height])
    side = small + drawn[:, :2] * (large * image - small)
    corner = drawn[:, 2:] * (image - side)
    return torch.from_numpy(np.concatenate([corner, corner + side], axis=1).astype(np.float32))


#: Corners of a rectangle, a diamond and a hexagon in a box, as shares of its sides.
_OUTLINES = ([(0, 0), (1, 0), (1, 1), (0, 1)],
             [(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)],
             [(0, 0.5), (0.25, 0), (0.75, 0), (1, 0.5), (0.75, 1), (0.25, 1)])


def outlines(corners: Tensor) -> list[np.ndarray]:
    """A polygon [x, y, x, y, ...] in each box [n, 4]: rectangle, diamond and hexagon in turn."""
    found = []
    for i, (x1, y1, x2, y2) in enumerate(corners.double().tolist()):
        across = {0: x1, 0.25: x1 + (x2 - x1) / 4, 0.5: (x1 + x2) / 2, 0.75: x2 - (x2 - x1) / 4,
                  1: x2}
        found.append(np.array([v for x, y in _OUTLINES[i % 3] for v in (
            across[x], y1 if y == 0 else y2 if y == 1 else (y1 + y2) / 2)]))
    return found


def _raster(outline: np.ndarray, height: int, width: int) -> np.ndarray:
    """The pixels whose centre lies inside, by the even-odd rule."""
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.zeros((height, width), dtype=bool)
    points = outline.reshape(-1, 2)
    for (xa, ya), (xb, yb) in zip(points, np.roll(points, 1, axis=0)):
        if ya != yb:
            inside ^= ((ya > y) != (yb > y)) & (x < (xb - xa) * (y - ya) / (yb - ya) + xa)
    return inside.astype(np.uint8)


def bitmaps(corners: Tensor, height: int, width: int) -> np.ndarray:
    """[n, height, width] uint8, the :func:`outlines` of boxes filled in."""
    filled = [_raster(outline, height, width) for outline in outlines(corners)]
    return np.stack(filled) if filled else np.zeros((0, height, width), dtype=np.uint8)


def polygons(corners: Tensor, height: int, width: int) -> PolygonMasks:
    """The :func:`outlines` of boxes as masks."""
    return PolygonMasks([[outline] for outline in outlines(corners)], height, width)


def _semantic(spec: Spec, num: int, height: int, width: int) -> Tensor:
    """A map of classes for each image: four rows and five columns of one class each."""
    cells = (draw("semantic", (num, 1, 4, 5), "uniform") * spec["classes"]).floor().long()
    cells[:, :, 0, 0] = 255
    rows, columns = int(height * spec["scale"]), int(width * spec["scale"])
    return cells[:, :, torch.arange(rows) * 4 // rows][..., torch.arange(columns) * 5 // columns]


def _meta(image: Spec, index: int) -> Spec:
    meta = {
        **{key: tuple(image[key]) for key in ("ori_shape", "img_shape", "pad_shape")},
        "filename": f"{index}.jpg", "ori_filename": f"{index}.jpg",
        "scale_factor": np.array(image["scale_factor"], dtype=np.float32),
        "flip": image.get("flip", False), "flip_direction": image.get("flip_direction"),
        "img_norm_cfg": {"mean": np.zeros(3, np.float32), "std": np.ones(3, np.float32),
                         "to_rgb": True}}
    if "border" in image:
        meta["border"] = np.array(image["border"], dtype=np.float32)
    return meta


def batch(spec: Spec, dtype: torch.dtype = torch.float32,
          device: torch.device | str = "cpu") -> tuple[Tensor, list[Spec], Spec]:
    """Images, their metas, and the ground truth that ``forward(return_loss=True)`` takes.

    Args:
        spec: ``size`` (height, width), ``num_classes``, ``images`` (of each its shapes and
            ``gts``, how many), ``with`` (names of ground truth beyond boxes and labels),
            ``without``.
        dtype: of the images.
        device: of all tensors.
    """
    (height, width), images, extra = spec["size"], spec["images"], spec.get("with", [])
    img = draw("image", (len(images), 3, height, width)).to(device, dtype)
    metas = [_meta(image, i) for i, image in enumerate(images)]
    gts: Spec = {name: [] for name in ("gt_bboxes", "gt_labels", *extra) if name != "polygons"}
    if "polygons" in extra:
        gts["gt_masks"] = []
    kind = torch.float64 if spec.get("gt_dtype") == "float64" else torch.float32
    for i, image in enumerate(images):
        num, (h, w) = image["gts"], image["img_shape"][:2]
        mine = boxes(f"gt{i}", num, h, w, image.get("small", 10.0), image.get("large", 0.7))
        labels = draw(f"label{i}", (max(num, 1),), "uniform")[:num] * spec["num_classes"]
        gts["gt_bboxes"].append(mine.to(device, kind))
        gts["gt_labels"].append(labels.long().to(device))
        if "gt_masks" in gts:
            area = ((height, width) if spec.get("mask_size") == "batch"
                    else tuple(image["pad_shape"][:2]))
            gts["gt_masks"].append(polygons(mine, *area) if "polygons" in extra else
                                   BitmapMasks(bitmaps(mine, *area), *area))
        if "gt_bboxes_ignore" in gts:
            gts["gt_bboxes_ignore"].append(boxes(f"ignore{i}", 2, h, w).to(device))
        if "proposals" in gts:
            gts["proposals"].append(boxes(f"proposal{i}", spec.get("proposals", 60), h,
                                          w).to(device, dtype))
    if "gt_semantic_seg" in gts:
        gts["gt_semantic_seg"] = _semantic(spec["semantic"], len(images), height, width).to(device)
    for name in spec.get("without", []):
        del gts[name]
    return img, metas, gts
