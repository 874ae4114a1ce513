"""Arithmetic of masks: sizes, boxes, polygons. OpenCV and pycocotools are imported when used."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["bilinear_or", "clipped_box", "coco_mask", "cv2_", "polygon_area", "rasterize",
           "scaled_size"]


def _needs(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as e:
        raise ImportError(f"masks need {package}; install it with: pip install {package}") from e


def cv2_() -> Any:
    """OpenCV, whose interpolation is that of MMDetection's masks."""
    return _needs("cv2", "opencv-python-headless")


def coco_mask() -> Any:
    """pycocotools.mask: COCO's run-length code and its rule for drawing polygons."""
    return _needs("pycocotools.mask", "pycocotools")


def bilinear_or(interpolation: str) -> int:
    """OpenCV's flag of an interpolation's name.

    Raises:
        ValueError: the name is unknown.
    """
    names = {"nearest": "NEAREST", "bilinear": "LINEAR", "bicubic": "CUBIC", "area": "AREA",
             "lanczos": "LANCZOS4"}
    if interpolation not in names:
        raise ValueError(f"interpolation must be one of {', '.join(names)}, got "
                         f"{interpolation!r}")
    return int(getattr(cv2_(), f"INTER_{names[interpolation]}"))


def scaled_size(size: tuple[int, int], scale: float | Sequence[int]) -> tuple[int, int]:
    """A (width, height) scaled with its aspect ratio kept.

    Args:
        size: (width, height).
        scale: a factor, or a pair: the long edge stays within the larger number and the short
            one within the smaller.

    Raises:
        ValueError: the factor is not positive.
    """
    if isinstance(scale, (int, float)):
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        factor = scale
    else:
        factor = min(max(scale) / max(size), min(scale) / min(size))
    return int(size[0] * float(factor) + 0.5), int(size[1] * float(factor) + 0.5)


def clipped_box(bbox: np.ndarray, height: int, width: int) -> tuple[int, int, int, int]:
    """(x, y, w, h) of a box (x1, y1, x2, y2) within an image, at least a pixel wide and high.

    Raises:
        ValueError: ``bbox`` is no array of four numbers.
    """
    if not isinstance(bbox, np.ndarray) or bbox.shape != (4,):
        raise ValueError(f"crop: bbox must be an array of four numbers, got {bbox!r}")
    x1, x2 = np.clip(bbox[0::2], 0, width)
    y1, y2 = np.clip(bbox[1::2], 0, height)
    return x1, y1, max(x2 - x1, 1), max(y2 - y1, 1)


def polygon_area(x: np.ndarray, y: np.ndarray) -> float:
    """The shoelace formula."""
    return 0.5 * abs(float(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))))


def rasterize(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """The union of polygons by COCO's rule, ``[H, W]`` bool."""
    codes = coco_mask().frPyObjects([np.asarray(p) for p in polygons], height, width)
    return coco_mask().decode(coco_mask().merge(codes)).astype(bool)
