"""Colour conversions, as in ``mmcv.image.colorspace``.

Those between RGB, HSV, HLS and grey are OpenCV's. YCbCr is ITU-R BT.601 for standard definition,
computed as Matlab does: ``[16, 235]`` for luma, and not OpenCV's YCrCb.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

__all__ = [
    "bgr2gray", "bgr2hls", "bgr2hsv", "bgr2rgb", "bgr2ycbcr", "convert_color_factory", "gray2bgr",
    "gray2rgb", "hls2bgr", "hsv2bgr", "imconvert", "rgb2bgr", "rgb2gray", "rgb2ycbcr", "ycbcr2bgr",
    "ycbcr2rgb",
]

# Rows are R, G, B; columns Y, Cb, Cr.
_TO_YCBCR = np.array([[65.481, -37.797, 112.0], [128.553, -74.203, -93.786],
                      [24.966, 112.0, -18.214]])
_YCBCR_OFFSET = [16, 128, 128]
# Rows are Y, Cb, Cr; columns R, G, B.
_FROM_YCBCR = np.array([[0.00456621, 0.00456621, 0.00456621], [0, -0.00153632, 0.00791071],
                        [0.00625893, -0.00318811, 0]])
_RGB_OFFSET = [-222.921, 135.576, -276.836]


def imconvert(img: np.ndarray, src: str, dst: str) -> np.ndarray:
    """Convert between two colour spaces that OpenCV names, such as ``'bgr'`` and ``'hsv'``."""
    return cv2.cvtColor(img, getattr(cv2, f"COLOR_{src.upper()}2{dst.upper()}"))


def bgr2gray(img: np.ndarray, keepdim: bool = False) -> np.ndarray:
    """BGR to grey, ``[H, W]``, or ``[H, W, 1]`` with ``keepdim``."""
    grey = cv2.cvtColor(img, cv2.COLOR_BGR2GRAY)
    return grey[..., None] if keepdim else grey


def rgb2gray(img: np.ndarray, keepdim: bool = False) -> np.ndarray:
    """RGB to grey, ``[H, W]``, or ``[H, W, 1]`` with ``keepdim``."""
    grey = cv2.cvtColor(img, cv2.COLOR_RGB2GRAY)
    return grey[..., None] if keepdim else grey


def gray2bgr(img: np.ndarray) -> np.ndarray:
    """Grey, ``[H, W]`` or ``[H, W, 1]``, to BGR."""
    return cv2.cvtColor(img[..., None] if img.ndim == 2 else img, cv2.COLOR_GRAY2BGR)


def gray2rgb(img: np.ndarray) -> np.ndarray:
    """Grey, ``[H, W]`` or ``[H, W, 1]``, to RGB."""
    return cv2.cvtColor(img[..., None] if img.ndim == 2 else img, cv2.COLOR_GRAY2RGB)


def _to_unit_range(img: np.ndarray) -> np.ndarray:
    """float32 in ``[0, 1]`` from uint8 in ``[0, 255]`` or float32 in ``[0, 1]``."""
    if img.dtype == np.float32:
        return img
    if img.dtype == np.uint8:
        return img.astype(np.float32) / 255.0
    raise TypeError(f"the image must be uint8 or float32, got {img.dtype}")


def _from_byte_range(img: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """``[0, 255]`` to ``dtype``: uint8 rounded, or float32 in ``[0, 1]``."""
    return (img.round() if dtype == np.uint8 else img / 255.0).astype(dtype)


def _to_ycbcr(img: np.ndarray, y_only: bool, matrix: np.ndarray) -> np.ndarray:
    unit = _to_unit_range(img)
    if y_only:
        out = np.dot(unit, matrix[:, 0]) + 16.0
    else:
        out = np.matmul(unit, matrix) + _YCBCR_OFFSET
    return _from_byte_range(out, img.dtype)


def rgb2ycbcr(img: np.ndarray, y_only: bool = False) -> np.ndarray:
    """RGB to YCbCr (BT.601).

    Args:
        img: ``[H, W, 3]``, uint8 in ``[0, 255]`` or float32 in ``[0, 1]``.
        y_only: give luma alone, ``[H, W]``.
    """
    return _to_ycbcr(img, y_only, _TO_YCBCR)


def bgr2ycbcr(img: np.ndarray, y_only: bool = False) -> np.ndarray:
    """BGR to YCbCr; see :func:`rgb2ycbcr`."""
    return _to_ycbcr(img, y_only, _TO_YCBCR[::-1].copy())


def ycbcr2rgb(img: np.ndarray) -> np.ndarray:
    """YCbCr (BT.601) to RGB, uint8 or float32 in ``[0, 1]``."""
    bytes_ = _to_unit_range(img) * 255
    return _from_byte_range(np.matmul(bytes_, _FROM_YCBCR) * 255.0 + _RGB_OFFSET, img.dtype)


def ycbcr2bgr(img: np.ndarray) -> np.ndarray:
    """YCbCr (BT.601) to BGR, uint8 or float32 in ``[0, 1]``."""
    bytes_ = _to_unit_range(img) * 255
    out = np.matmul(bytes_, _FROM_YCBCR[:, ::-1].copy()) * 255.0 + _RGB_OFFSET[::-1]
    return _from_byte_range(out, img.dtype)


def convert_color_factory(src: str, dst: str) -> Callable[[np.ndarray], np.ndarray]:
    """A function that converts images from ``src`` to ``dst``; see :func:`imconvert`."""
    code = getattr(cv2, f"COLOR_{src.upper()}2{dst.upper()}")

    def convert_color(img: np.ndarray) -> np.ndarray:
        return cv2.cvtColor(img, code)

    convert_color.__doc__ = f"Convert an image from {src.upper()} to {dst.upper()}."
    convert_color.__name__ = convert_color.__qualname__ = f"{src}2{dst}"
    return convert_color


bgr2rgb = convert_color_factory("bgr", "rgb")
rgb2bgr = convert_color_factory("rgb", "bgr")
bgr2hsv = convert_color_factory("bgr", "hsv")
hsv2bgr = convert_color_factory("hsv", "bgr")
bgr2hls = convert_color_factory("bgr", "hls")
hls2bgr = convert_color_factory("hls", "bgr")
