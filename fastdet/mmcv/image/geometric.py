"""Resizing, cropping, padding and warping of images, as in ``mmcv.image.geometric``.

Images are ``[H, W]`` or ``[H, W, C]`` arrays, sizes ``(w, h)``, shapes ``(h, w)``. OpenCV computes
the pixels: they are part of what a trained detector has seen.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from ..utils.misc import to_2tuple
from .io import current_backend

__all__ = [
    "bbox_clip", "bbox_scaling", "cutout", "imcrop", "imflip", "imflip_", "impad",
    "impad_to_multiple", "imrescale", "imresize", "imresize_like", "imresize_to_multiple",
    "imrotate", "imshear", "imtranslate", "rescale_size",
]

Number = int | float

cv2_interp_codes = {
    "nearest": cv2.INTER_NEAREST,
    "bilinear": cv2.INTER_LINEAR,
    "bicubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
cv2_border_modes = {
    "constant": cv2.BORDER_CONSTANT,
    "replicate": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT,
    "wrap": cv2.BORDER_WRAP,
    "reflect_101": cv2.BORDER_REFLECT_101,
    "transparent": cv2.BORDER_TRANSPARENT,
    "isolated": cv2.BORDER_ISOLATED,
}
#: Names of Pillow's filters; ``area`` is its box filter.
pillow_interp_codes = {
    "nearest": 0, "bilinear": 2, "bicubic": 3, "box": 4, "lanczos": 1, "hamming": 5,
}
_PADDING_MODES = {
    "constant": cv2.BORDER_CONSTANT,
    "edge": cv2.BORDER_REPLICATE,
    "reflect": cv2.BORDER_REFLECT_101,
    "symmetric": cv2.BORDER_REFLECT,
}


def _code(table: dict[str, int], name: str, what: str) -> int:
    if name not in table:
        raise ValueError(f"{what} must be one of {', '.join(table)}, got {name!r}")
    return table[name]


def _channels(img: np.ndarray) -> int:
    return 1 if img.ndim == 2 else img.shape[-1]


def _per_channel(value: Any, img: np.ndarray, what: str) -> tuple[Number, ...]:
    """``value`` for each channel of ``img``, of which one may stand for all."""
    if isinstance(value, numbers.Number):
        return (value,) * _channels(img)  # type: ignore[return-value]
    if not isinstance(value, tuple) or len(value) != _channels(img):
        raise ValueError(f"{what} must be a number or a tuple of one for each of the image's "
                         f"{_channels(img)} channels, got {value!r}")
    return value


def _one_of(name: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {given!r}")


def _scale_size(size: tuple[int, int], scale: Any) -> tuple[int, int]:
    """``(w, h)`` times one factor or a pair of them, rounded half up."""
    if isinstance(scale, float | int):
        scale = (scale, scale)
    w, h = size
    return int(w * float(scale[0]) + 0.5), int(h * float(scale[1]) + 0.5)


def imresize(img: np.ndarray, size: tuple[int, int], return_scale: bool = False,
             interpolation: str = "bilinear", out: np.ndarray | None = None,
             backend: str | None = None) -> Any:
    """Resize to ``size = (w, h)``.

    Args:
        img: the image; uint8 with Pillow.
        size: the new width and height.
        return_scale: also return the two factors.
        interpolation: nearest, bilinear, bicubic, area or lanczos with OpenCV; nearest, bilinear,
            bicubic, box, lanczos or hamming with Pillow.
        out: OpenCV writes the result here.
        backend: ``'cv2'`` or ``'pillow'``; the choice of :func:`use_backend` by default.

    Returns:
        The image, or ``(image, w_factor, h_factor)``.
    """
    h, w = img.shape[:2]
    backend = current_backend(backend)
    if backend not in ("cv2", "pillow"):
        raise ValueError(f"images are resized by 'cv2' or 'pillow', got {backend!r}")
    if backend == "pillow":
        from PIL import Image

        if img.dtype != np.uint8:
            raise TypeError(f"Pillow resizes uint8 images, got {img.dtype}")
        code = _code(pillow_interp_codes, interpolation, "interpolation")
        resized = np.array(Image.fromarray(img).resize(size, code))
    else:
        code = _code(cv2_interp_codes, interpolation, "interpolation")
        resized = cv2.resize(img, size, dst=out, interpolation=code)
    return (resized, size[0] / w, size[1] / h) if return_scale else resized


def imresize_to_multiple(img: np.ndarray, divisor: int | tuple[int, int],
                         size: int | tuple[int, int] | None = None,
                         scale_factor: float | tuple[float, float] | None = None,
                         keep_ratio: bool = False, return_scale: bool = False,
                         interpolation: str = "bilinear", out: np.ndarray | None = None,
                         backend: str | None = None) -> Any:
    """Resize to ``size``, or by ``scale_factor``, and up to the next multiples of ``divisor``.

    Args:
        divisor: one for both sides, or ``(w, h)``.
        size: ``(w, h)`` before it is rounded up.
        scale_factor: instead of ``size``: one factor or ``(w, h)``.
        keep_ratio: fit the image into ``size`` with its proportions kept; no effect on
            ``scale_factor``.
        img, return_scale, interpolation, out, backend: see :func:`imresize`.

    Raises:
        ValueError: ``size`` and ``scale_factor`` are both given, or neither.
    """
    h, w = img.shape[:2]
    if (size is None) == (scale_factor is None):
        raise ValueError("imresize_to_multiple needs one of size and scale_factor, got "
                         + ("neither" if size is None else "both"))
    if size is None:
        wanted = _scale_size((w, h), scale_factor)
    else:
        wanted = to_2tuple(size)
        if keep_ratio:
            wanted = rescale_size((w, h), wanted)
    dw, dh = to_2tuple(divisor)
    wanted = (math.ceil(wanted[0] / dw) * dw, math.ceil(wanted[1] / dh) * dh)
    return imresize(img, wanted, return_scale, interpolation, out, backend)


def imresize_like(img: np.ndarray, dst_img: np.ndarray, return_scale: bool = False,
                  interpolation: str = "bilinear", backend: str | None = None) -> Any:
    """Resize to the size of ``dst_img``; see :func:`imresize`."""
    h, w = dst_img.shape[:2]
    return imresize(img, (w, h), return_scale, interpolation, backend=backend)


def rescale_size(old_size: tuple[int, int], scale: float | tuple[float, float],
                 return_scale: bool = False) -> Any:
    """The size of an image after it was scaled with its proportions kept.

    Args:
        old_size: ``(w, h)``.
        scale: a factor, or the longest and shortest side that the result may have.
        return_scale: also return the factor.

    Returns:
        ``(w, h)``, or ``((w, h), factor)``.
    """
    w, h = old_size
    if isinstance(scale, float | int):
        if scale <= 0:
            raise ValueError(f"the scale must be positive, got {scale}")
        factor: float = scale
    elif isinstance(scale, tuple):
        factor = min(max(scale) / max(h, w), min(scale) / min(h, w))
    else:
        raise TypeError("the scale must be a number or a tuple of two, "
                        f"got {type(scale).__name__}")
    new_size = _scale_size((w, h), factor)
    return (new_size, factor) if return_scale else new_size


def imrescale(img: np.ndarray, scale: float | tuple[float, float], return_scale: bool = False,
              interpolation: str = "bilinear", backend: str | None = None) -> Any:
    """Resize with the proportions kept; ``scale`` as for :func:`rescale_size`.

    Returns:
        The image, or ``(image, factor)`` with ``return_scale``.
    """
    h, w = img.shape[:2]
    size, factor = rescale_size((w, h), scale, return_scale=True)
    resized = imresize(img, size, interpolation=interpolation, backend=backend)
    return (resized, factor) if return_scale else resized


def imflip(img: np.ndarray, direction: str = "horizontal") -> np.ndarray:
    """A mirrored view: ``'horizontal'``, ``'vertical'`` or ``'diagonal'`` (both)."""
    _one_of("direction", direction, ("horizontal", "vertical", "diagonal"))
    axes: dict[str, int | tuple[int, int]] = {"horizontal": 1, "vertical": 0, "diagonal": (0, 1)}
    return np.flip(img, axes[direction])


def imflip_(img: np.ndarray, direction: str = "horizontal") -> np.ndarray:
    """:func:`imflip` in place."""
    _one_of("direction", direction, ("horizontal", "vertical", "diagonal"))
    return cv2.flip(img, {"horizontal": 1, "vertical": 0, "diagonal": -1}[direction], img)


def imrotate(img: np.ndarray, angle: float, center: tuple[float, float] | None = None,
             scale: float = 1.0, border_value: int = 0, interpolation: str = "bilinear",
             auto_bound: bool = False, border_mode: str = "constant") -> np.ndarray:
    """Rotate clockwise.

    Args:
        img: the image.
        angle: degrees, clockwise.
        center: ``(x, y)`` of the fixed point; the image's centre by default.
        scale: an isotropic factor.
        border_value: the colour outside the image.
        interpolation: see :func:`imresize`.
        auto_bound: grow the result so that it holds the whole image.
        border_mode: a name of OpenCV's border modes, in lower case.

    Raises:
        ValueError: ``center`` and ``auto_bound`` are both given.
    """
    if center is not None and auto_bound:
        raise ValueError("auto_bound rotates around the image's centre: leave out center")
    h, w = img.shape[:2]
    if center is None:
        center = ((w - 1) * 0.5, (h - 1) * 0.5)
    matrix = cv2.getRotationMatrix2D(center, -angle, scale)
    if auto_bound:
        cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
        new_w, new_h = h * sin + w * cos, h * cos + w * sin
        matrix[0, 2] += (new_w - w) * 0.5
        matrix[1, 2] += (new_h - h) * 0.5
        w, h = int(np.round(new_w)), int(np.round(new_h))
    return cv2.warpAffine(img, matrix, (w, h),
                          flags=_code(cv2_interp_codes, interpolation, "interpolation"),
                          borderMode=_code(cv2_border_modes, border_mode, "border_mode"),
                          borderValue=border_value)


def bbox_clip(bboxes: np.ndarray, img_shape: tuple[int, ...]) -> np.ndarray:
    """Clip boxes ``[..., 4k]`` of pixel indices to an image of ``(h, w)``."""
    if bboxes.shape[-1] % 4:
        raise ValueError(f"boxes have 4 coordinates each, got {bboxes.shape[-1]}")
    last = np.empty(bboxes.shape[-1], dtype=bboxes.dtype)
    last[0::2] = img_shape[1] - 1
    last[1::2] = img_shape[0] - 1
    return np.maximum(np.minimum(bboxes, last), 0)


def bbox_scaling(bboxes: np.ndarray, scale: float,
                 clip_shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Scale boxes ``[..., 4]`` of pixel indices around their centres, then clip to ``(h, w)``."""
    if float(scale) == 1.0:
        scaled = bboxes.copy()
    else:
        dw = (bboxes[..., 2] - bboxes[..., 0] + 1) * (scale - 1) * 0.5
        dh = (bboxes[..., 3] - bboxes[..., 1] + 1) * (scale - 1) * 0.5
        scaled = bboxes + np.stack((-dw, -dh, dw, dh), axis=-1)
    return scaled if clip_shape is None else bbox_clip(scaled, clip_shape)


def imcrop(img: np.ndarray, bboxes: np.ndarray, scale: float = 1.0,
           pad_fill: Number | list[Number] | None = None) -> np.ndarray | list[np.ndarray]:
    """Crop boxes out of an image.

    Args:
        img: the image.
        bboxes: ``[4]`` or ``[n, 4]``: x1, y1, x2, y2, whose last row and column belong to the box.
        scale: a factor of the boxes' size.
        pad_fill: fill what lies outside the image with this (one value, or one a channel); by
            default the crop ends at the image's edge.

    Returns:
        One crop for one box, a list of them for ``[n, 4]``.
    """
    channels = _channels(img)
    if isinstance(pad_fill, int | float):
        pad_fill = [pad_fill] * channels
    if pad_fill is not None and len(pad_fill) != channels:
        raise ValueError(f"pad_fill must have a value for each of {channels} channels, "
                         f"got {len(pad_fill)}")
    wanted = bbox_scaling(bboxes[None] if bboxes.ndim == 1 else bboxes, scale).astype(np.int32)
    patches = []
    for want, (x1, y1, x2, y2) in zip(wanted, bbox_clip(wanted, img.shape)):
        inside = img[y1:y2 + 1, x1:x2 + 1]
        if pad_fill is None:
            patches.append(inside)
            continue
        shape = (want[3] - want[1] + 1, want[2] - want[0] + 1, *img.shape[2:])
        patch = np.array(pad_fill, dtype=img.dtype) * np.ones(shape, dtype=img.dtype)
        left, top = max(-want[0], 0), max(-want[1], 0)
        patch[top:top + y2 - y1 + 1, left:left + x2 - x1 + 1] = inside
        patches.append(patch)
    return patches[0] if bboxes.ndim == 1 else patches


def impad(img: np.ndarray, *, shape: tuple[int, ...] | None = None,
          padding: int | tuple[int, ...] | None = None,
          pad_val: Number | Sequence[Number] = 0, padding_mode: str = "constant") -> np.ndarray:
    """Pad to a shape (at the right and bottom), or by given amounts.

    Args:
        img: the image.
        shape: the result's ``(h, w)``; a side that is longer already stays.
        padding: instead of ``shape``: one amount, ``(left/right, top/bottom)`` or
            ``(left, top, right, bottom)``.
        pad_val: the value of constant padding, one or one a channel.
        padding_mode: ``'constant'``, ``'edge'``, ``'reflect'`` (edge not repeated) or
            ``'symmetric'`` (edge repeated).

    Raises:
        ValueError: ``shape`` and ``padding`` are both given or neither, or their form is wrong.
    """
    if (shape is None) == (padding is None):
        raise ValueError("impad needs one of shape and padding, got "
                         + ("neither" if shape is None else "both"))
    if shape is not None:
        padding = (0, 0, max(shape[1] - img.shape[1], 0), max(shape[0] - img.shape[0], 0))
    if isinstance(pad_val, tuple):
        _per_channel(pad_val, img, "pad_val")
    elif not isinstance(pad_val, numbers.Number):
        raise TypeError(f"pad_val must be a number or a tuple, got {type(pad_val).__name__}")
    if isinstance(padding, numbers.Number):
        padding = (padding,) * 4  # type: ignore[assignment]
    elif isinstance(padding, tuple) and len(padding) == 2:
        padding = padding * 2
    if not isinstance(padding, tuple) or len(padding) != 4:
        raise ValueError(f"padding must be an int or a tuple of 2 or 4, got {padding!r}")
    left, top, right, bottom = padding
    return cv2.copyMakeBorder(img, top, bottom, left, right,
                              _code(_PADDING_MODES, padding_mode, "padding_mode"),
                              value=pad_val)


def impad_to_multiple(img: np.ndarray, divisor: int,
                      pad_val: Number | Sequence[Number] = 0) -> np.ndarray:
    """Pad at the right and bottom until both sides are multiples of ``divisor``."""
    h, w = (math.ceil(s / divisor) * divisor for s in img.shape[:2])
    return impad(img, shape=(h, w), pad_val=pad_val)


def cutout(img: np.ndarray, shape: int | tuple[int, int],
           pad_val: Number | tuple[Number, ...] = 0) -> np.ndarray:
    """A copy with one random rectangle of ``shape = (h, w)`` filled (DeVries, arXiv:1708.04552).

    The rectangle's centre is drawn from ``np.random``, y first; what lies outside is cut off.
    """
    cut_h, cut_w = (shape, shape) if isinstance(shape, int) else shape
    fill = _per_channel(pad_val, img, "pad_val")
    h, w = img.shape[:2]
    y, x = np.random.uniform(h), np.random.uniform(w)  # noqa: NPY002 -- mmcv's stream
    y1, x1 = int(max(0, y - cut_h / 2.0)), int(max(0, x - cut_w / 2.0))
    out = img.copy()
    out[y1:min(h, y1 + cut_h), x1:min(w, x1 + cut_w)] = fill[0] if img.ndim == 2 else fill
    return out


def _affine(img: np.ndarray, matrix: Any, border_value: Any,
            interpolation: str) -> np.ndarray:
    h, w = img.shape[:2]
    # OpenCV takes a colour of at most four values; images of more channels get the first three.
    return cv2.warpAffine(img, np.array(matrix, dtype=np.float32), (w, h),
                          borderValue=_per_channel(border_value, img, "border_value")[:3],
                          flags=_code(cv2_interp_codes, interpolation, "interpolation"))


def imshear(img: np.ndarray, magnitude: float, direction: str = "horizontal",
            border_value: int | tuple[int, ...] = 0,
            interpolation: str = "bilinear") -> np.ndarray:
    """Shear: ``x + magnitude * y`` (``'horizontal'``) or ``y + magnitude * x`` (``'vertical'``)."""
    _one_of("direction", direction, ("horizontal", "vertical"))
    matrix = ([[1, magnitude, 0], [0, 1, 0]] if direction == "horizontal"
              else [[1, 0, 0], [magnitude, 1, 0]])
    return _affine(img, matrix, border_value, interpolation)


def imtranslate(img: np.ndarray, offset: float, direction: str = "horizontal",
                border_value: int | tuple[int, ...] = 0,
                interpolation: str = "bilinear") -> np.ndarray:
    """Shift by ``offset`` pixels to the right (``'horizontal'``) or down (``'vertical'``)."""
    _one_of("direction", direction, ("horizontal", "vertical"))
    matrix = ([[1, 0, offset], [0, 1, 0]] if direction == "horizontal"
              else [[1, 0, 0], [0, 1, offset]])
    return _affine(img, matrix, border_value, interpolation)
