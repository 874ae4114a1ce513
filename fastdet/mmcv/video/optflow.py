"""Optical flow in files and on images, as in ``mmcv.video.optflow``."""

from __future__ import annotations

import os
from typing import Any

import cv2
import numpy as np

from ..arraymisc import dequantize, quantize
from ..image import imread
from ..utils.misc import is_str
from ..utils.path import mkdir_or_exist

__all__ = ["dequantize_flow", "flow_from_bytes", "flow_warp", "flowread", "flowwrite",
           "quantize_flow", "sparse_flow_from_bytes"]

#: The first bytes of Middlebury's .flo files.
_MAGIC = b"PIEH"


def _parts_axis(concat_axis: int) -> int:
    if concat_axis not in (0, 1):
        raise ValueError(f"concat_axis must be 0 or 1, got {concat_axis}")
    return concat_axis


def flow_from_bytes(content: bytes) -> np.ndarray:
    """A flow map ``[H, W, 2]``, float32, from the bytes of a .flo file."""
    if content[:4] != _MAGIC:
        raise ValueError("Flow file header does not contain PIEH")
    w, h = np.frombuffer(content[4:12], np.int32)
    return np.frombuffer(content[12:12 + w * h * 8], np.float32).reshape(h, w, 2)


def sparse_flow_from_bytes(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """KITTI's 16-bit PNG: the flow ``[H, W, 2]``, float32, and where it is known ``[H, W]``."""
    raw = cv2.imdecode(np.frombuffer(content, np.uint8),
                       cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    if raw is None:
        raise ValueError(f"{len(content)} bytes that OpenCV cannot decode as an image")
    raw = raw[:, :, ::-1].astype(np.float32)
    return (raw[:, :, :2] - 2 ** 15) / 64.0, raw[:, :, 2]


def flowread(flow_or_path: np.ndarray | str, quantize: bool = False, concat_axis: int = 0,
             *args: Any, **kwargs: Any) -> np.ndarray:
    """Read a flow map.

    Args:
        flow_or_path: a .flo file, an image of quantised flow, or the map itself.
        quantize: the file is such an image: dx and dy side by side.
        concat_axis: the axis along which they lie, 0 or 1.
        args, kwargs: as for :func:`dequantize_flow`.

    Returns:
        ``[H, W, 2]``, float32.
    """
    if isinstance(flow_or_path, np.ndarray):
        if flow_or_path.ndim != 3 or flow_or_path.shape[-1] != 2:
            raise ValueError(f"Invalid flow with shape {flow_or_path.shape}")
        return flow_or_path
    if not is_str(flow_or_path):
        raise TypeError(f'"flow_or_path" must be a filename or numpy array, not '
                        f"{type(flow_or_path)}")
    if not quantize:
        with open(flow_or_path, "rb") as f:
            try:
                return flow_from_bytes(f.read())
            except ValueError as e:
                raise OSError(f"Invalid flow file: {flow_or_path}, {e}") from e
    axis = _parts_axis(concat_axis)
    both = imread(flow_or_path, flag="unchanged")
    if both.ndim != 2 or both.shape[axis] % 2:
        raise OSError(f"{flow_or_path} is not a valid quantized flow file, its dimension is "
                      f"{both.ndim} and its shape {both.shape}")
    dx, dy = np.split(both, 2, axis=axis)
    return dequantize_flow(dx, dy, *args, **kwargs).astype(np.float32)


def flowwrite(flow: np.ndarray, filename: str, quantize: bool = False, concat_axis: int = 0,
              *args: Any, **kwargs: Any) -> None:
    """Write a flow map as a .flo file, or quantised as an image; see :func:`flowread`."""
    if quantize:
        parts = quantize_flow(flow, *args, **kwargs)
        mkdir_or_exist(os.path.dirname(filename))
        cv2.imwrite(filename, np.concatenate(parts, axis=_parts_axis(concat_axis)))
        return
    with open(filename, "wb") as f:
        f.write(_MAGIC)
        np.array([flow.shape[1], flow.shape[0]], dtype=np.int32).tofile(f)
        flow.astype(np.float32).tofile(f)


def quantize_flow(flow: np.ndarray, max_val: float = 0.02,
                  norm: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """dx and dy in 255 levels of ``[-max_val, max_val]``, uint8.

    Args:
        flow: ``[H, W, 2]``.
        max_val: larger motions are clipped.
        norm: divide dx by the width and dy by the height first.
    """
    h, w, _ = flow.shape
    dx, dy = flow[..., 0], flow[..., 1]
    if norm:
        dx, dy = dx / w, dy / h
    return (quantize(dx, -max_val, max_val, 255, np.uint8),
            quantize(dy, -max_val, max_val, 255, np.uint8))


def dequantize_flow(dx: np.ndarray, dy: np.ndarray, max_val: float = 0.02,
                    denorm: bool = True) -> np.ndarray:
    """The flow ``[H, W, 2]`` of quantised dx and dy; see :func:`quantize_flow`."""
    if dx.shape != dy.shape or dx.ndim not in (2, 3):
        raise ValueError(f"dx and dy must have one shape, got {dx.shape} and {dy.shape}")
    x, y = (dequantize(d, -max_val, max_val, 255) for d in (dx, dy))
    if denorm:
        x, y = x * dx.shape[1], y * dx.shape[0]
    return np.dstack((x, y))


def flow_warp(img: np.ndarray, flow: np.ndarray, filling_value: int = 0,
              interpolate_mode: str = "nearest") -> np.ndarray:
    """Each pixel takes the value that lies its motion away.

    Args:
        img: ``[H, W, C]``.
        flow: ``[H, W, 2]``.
        filling_value: of pixels whose motion leads out of the image.
        interpolate_mode: ``'nearest'`` or ``'bilinear'``.

    Raises:
        ValueError: another mode, or shapes that do not fit.
    """
    if interpolate_mode not in ("nearest", "bilinear"):
        raise ValueError(f"interpolate_mode must be nearest or bilinear, got {interpolate_mode!r}")
    if img.ndim != 3 or flow.ndim != 3 or flow.shape[2] != 2:
        raise ValueError(f"the image must be [H, W, C] and the flow [H, W, 2], got {img.shape} "
                         f"and {flow.shape}")
    h, w = flow.shape[:2]
    out = np.ones(img.shape, dtype=img.dtype) * filling_value
    rows, columns = np.indices((h, w))
    y, x = rows + flow[:, :, 1], columns + flow[:, :, 0]
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    inside = (top >= 0) & (top < h - 1) & (left >= 0) & (left < w - 1)
    y, x, top, left = (t[inside] for t in (y, x, top, left))
    if interpolate_mode == "nearest":
        out[inside] = img[np.round(y).astype(int), np.round(x).astype(int)]
    else:
        dy, dx = (y - top)[:, None], (x - left)[:, None]
        out[inside] = (img[top, left] * (1 - dy) * (1 - dx)
                       + img[top, left + 1] * (1 - dy) * dx
                       + img[top + 1, left] * dy * (1 - dx)
                       + img[top + 1, left + 1] * dy * dx)
    return out
