"""Changes of colour and contrast, as in ``mmcv.image.photometric``.

Images are BGR ``[H, W, C]``, unless said otherwise. The results have the input's dtype, unless said
otherwise, and are clipped to ``[0, 255]`` where a blend can leave it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from .colorspace import bgr2gray, gray2bgr
from .io import current_backend

__all__ = [
    "adjust_brightness", "adjust_color", "adjust_contrast", "adjust_hue", "adjust_lighting",
    "adjust_sharpness", "auto_contrast", "clahe", "imdenormalize", "imequalize", "iminvert",
    "imnormalize", "imnormalize_", "lut_transform", "posterize", "solarize",
]


def imnormalize(img: np.ndarray, mean: np.ndarray, std: np.ndarray,
                to_rgb: bool = True) -> np.ndarray:
    """``(img - mean) / std`` in float32, after BGR became RGB if ``to_rgb``.

    Args:
        img: ``[H, W, C]``.
        mean, std: ``[C]``, in the order of the result's channels.
        to_rgb: swap the first and last channel.
    """
    return imnormalize_(img.copy().astype(np.float32), mean, std, to_rgb)


def imnormalize_(img: np.ndarray, mean: np.ndarray, std: np.ndarray,
                 to_rgb: bool = True) -> np.ndarray:
    """:func:`imnormalize` in place; ``img`` is of a float dtype."""
    if img.dtype == np.uint8:
        raise TypeError("imnormalize_ works in place on float images, got uint8")
    mean = np.float64(mean.reshape(1, -1))
    inverse = 1 / np.float64(std.reshape(1, -1))
    if to_rgb:
        cv2.cvtColor(img, cv2.COLOR_BGR2RGB, img)
    cv2.subtract(img, mean, img)
    cv2.multiply(img, inverse, img)
    return img


def imdenormalize(img: np.ndarray, mean: np.ndarray, std: np.ndarray,
                  to_bgr: bool = True) -> np.ndarray:
    """``img * std + mean``, then from RGB to BGR if ``to_bgr``; ``img`` is a float image."""
    if img.dtype == np.uint8:
        raise TypeError("imdenormalize takes a normalised float image, got uint8")
    out = cv2.multiply(img, std.reshape(1, -1).astype(np.float64))
    cv2.add(out, mean.reshape(1, -1).astype(np.float64), out)
    if to_bgr:
        cv2.cvtColor(out, cv2.COLOR_RGB2BGR, out)
    return out


def iminvert(img: np.ndarray) -> np.ndarray:
    """``255 - img``."""
    return np.full_like(img, 255) - img


def solarize(img: np.ndarray, thr: int = 128) -> np.ndarray:
    """Invert the values that are not below ``thr``."""
    return np.where(img < thr, img, 255 - img)


def posterize(img: np.ndarray, bits: int) -> np.ndarray:
    """Keep the upper ``bits`` bits of every value of a uint8 image."""
    shift = 8 - bits
    return np.left_shift(np.right_shift(img, shift), shift)


def _blend(img: np.ndarray, other: np.ndarray, factor: float) -> np.ndarray:
    """``img * factor + other * (1 - factor)`` in float32, clipped, in the input's dtype."""
    out = cv2.addWeighted(img.astype(np.float32), factor, other.astype(np.float32), 1 - factor, 0)
    return np.clip(out, 0, 255).astype(img.dtype)


def _enhance(name: str, img: np.ndarray, factor: float) -> np.ndarray:
    """One of ``PIL.ImageEnhance`` on a BGR image."""
    from PIL import Image, ImageEnhance

    if img.dtype != np.uint8:
        raise TypeError(f"Pillow changes uint8 images, got {img.dtype}")
    rgb = Image.fromarray(np.ascontiguousarray(img[..., ::-1]))
    return np.array(getattr(ImageEnhance, name)(rgb).enhance(factor), dtype=img.dtype)[..., ::-1]


def _by_pillow(backend: str | None) -> bool:
    backend = current_backend(backend)
    if backend not in ("cv2", "pillow"):
        raise ValueError(f"colours are changed by 'cv2' or 'pillow', got {backend!r}")
    return backend == "pillow"


def adjust_color(img: np.ndarray, alpha: float = 1, beta: float | None = None, gamma: float = 0,
                 backend: str | None = None) -> np.ndarray:
    """``img * alpha + grey(img) * beta + gamma``: saturation.

    Args:
        img: BGR.
        alpha: weight of the image.
        beta: weight of its grey; ``1 - alpha`` by default.
        gamma: added to every value. Pillow uses ``alpha`` alone.
        backend: ``'cv2'`` or ``'pillow'``; the choice of :func:`use_backend` by default.
    """
    if _by_pillow(backend):
        warnings.warn("Pillow adjusts the colour by alpha alone", stacklevel=2)
        return _enhance("Color", img, alpha)
    grey = np.tile(bgr2gray(img)[..., None], [1, 1, 3])
    out = cv2.addWeighted(img, alpha, grey, 1 - alpha if beta is None else beta, gamma)
    return (out if out.dtype == np.uint8 else np.clip(out, 0, 255)).astype(img.dtype)


def adjust_brightness(img: np.ndarray, factor: float = 1.0,
                      backend: str | None = None) -> np.ndarray:
    """Blend with black: 0 is black, 1 the image; above 1 it grows brighter."""
    if _by_pillow(backend):
        return _enhance("Brightness", img, factor)
    return _blend(img, np.zeros_like(img), factor)


def adjust_contrast(img: np.ndarray, factor: float = 1.0,
                    backend: str | None = None) -> np.ndarray:
    """Blend with the image's mean grey: 0 is grey, 1 the image; above 1 contrast grows."""
    if _by_pillow(backend):
        return _enhance("Contrast", img, factor)
    grey = bgr2gray(img)
    counted = np.histogram(grey, 256, (0, 255))[0]
    mean = round(np.sum(grey) / np.sum(counted))
    flat = (np.ones_like(img[..., 0]) * mean).astype(img.dtype)
    return _blend(img, gray2bgr(flat), factor)


def adjust_sharpness(img: np.ndarray, factor: float = 1.0,
                     kernel: np.ndarray | None = None) -> np.ndarray:
    """Blend with a blurred image: 0 is blurred, 1 the image; above 1 it grows sharper.

    Args:
        img: BGR.
        factor: the image's weight.
        kernel: the blur, 2-D; Pillow's smoothing kernel by default.
    """
    if kernel is None:
        kernel = np.array([[1.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 1.0]]) / 13
    if kernel.ndim != 2:
        raise ValueError(f"the kernel must have 2 dimensions, got {kernel.ndim}")
    return _blend(img, cv2.filter2D(img, -1, kernel), factor)


def _by_channel(img: np.ndarray, change: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """A change of each of the first three channels, stacked, in the input's dtype."""
    return np.stack([change(img[:, :, c]) for c in range(3)], axis=-1).astype(img.dtype)


def auto_contrast(img: np.ndarray, cutoff: Any = 0) -> np.ndarray:
    """Stretch each channel so that its values reach from 0 to 255.

    Args:
        img: uint8.
        cutoff: per cent of the values to ignore at the dark and at the bright end; one or a pair.
    """
    low_cut, high_cut = (cutoff, cutoff) if isinstance(cutoff, int | float) else cutoff

    def stretch(channel: np.ndarray) -> np.ndarray:
        sums = np.cumsum(np.histogram(channel, 256, (0, 255))[0])
        low_count = sums[-1] * low_cut // 100
        high_count = sums[-1] - sums[-1] * high_cut // 100
        sums = np.clip(sums, low_count, high_count) - low_count
        used = np.nonzero(np.diff(sums, prepend=0))[0]
        low, high = used[0], used[-1]
        if low >= high:
            return channel
        scale = 255.0 / (high - low)
        return np.clip(np.arange(256) * scale - low * scale, 0, 255)[channel]

    return _by_channel(img, stretch)


def imequalize(img: np.ndarray) -> np.ndarray:
    """Equalise each channel's histogram as Pillow does; uint8."""

    def equalize(channel: np.ndarray) -> np.ndarray:
        counts = np.histogram(channel, 256, (0, 255))[0]
        used = counts[counts > 0]
        step = (np.sum(used) - used[-1]) // 255
        if not step:
            return channel
        lut = (np.cumsum(counts) + step // 2) // step
        return np.minimum(np.concatenate([[0], lut[:-1]]), 255)[channel]

    return _by_channel(img, equalize)


def adjust_lighting(img: np.ndarray, eigval: Any, eigvec: Any, alphastd: float = 0.1,
                    to_rgb: bool = True) -> np.ndarray:
    """AlexNet's colour noise: add eigenvectors, weighted by ``N(0, alphastd) * eigval``.

    Args:
        img: BGR, three channels.
        eigval: ``[3]`` eigenvalues of the colours' covariance.
        eigvec: ``[3, 3]``, eigenvectors in columns.
        alphastd: standard deviation of the random weights, drawn from ``np.random``.
        to_rgb: swap the first and last channel first.

    Returns:
        float32 or float64 as numpy promotes, ``[H, W, 3]``.
    """
    eigval, eigvec = np.asarray(eigval), np.asarray(eigvec)
    n = eigval.shape[0]
    if eigvec.shape != (n, n):
        raise ValueError(f"eigvec must be {n} x {n} for {n} eigenvalues, got {eigvec.shape}")
    alpha = np.random.normal(0, alphastd, n)  # noqa: NPY002 -- mmcv's stream
    noise = (eigvec * alpha[None] * eigval[None]).sum(axis=1).reshape(1, 1, n)
    out = img.copy().astype(np.float32)
    if to_rgb:
        cv2.cvtColor(out, cv2.COLOR_BGR2RGB, out)
    return out + noise


def lut_transform(img: np.ndarray, lut_table: np.ndarray) -> np.ndarray:
    """Map each value of an image in ``[0, 255]`` by a table of 256."""
    if np.min(img) < 0 or np.max(img) > 255:
        raise ValueError(f"values must lie in [0, 255], got {np.min(img)} to {np.max(img)}")
    if lut_table.shape != (256,):
        raise ValueError(f"lut_table must have the shape (256,), got {lut_table.shape}")
    return cv2.LUT(np.array(img, dtype=np.uint8), lut_table)


def clahe(img: np.ndarray, clip_limit: float = 40.0,
          tile_grid_size: tuple[int, int] = (8, 8)) -> np.ndarray:
    """Contrast-limited adaptive histogram equalisation of a grey image ``[H, W]``."""
    if img.ndim != 2:
        raise ValueError(f"clahe takes a grey image of 2 dimensions, got {img.ndim}")
    if not isinstance(clip_limit, float | int):
        raise TypeError(f"clip_limit must be a number, got {type(clip_limit).__name__}")
    if len(tile_grid_size) != 2:
        raise ValueError(f"tile_grid_size must be a pair, got {tile_grid_size!r}")
    return cv2.createCLAHE(clip_limit, tile_grid_size).apply(np.array(img, dtype=np.uint8))


def adjust_hue(img: np.ndarray, hue_factor: float, backend: str | None = None) -> np.ndarray:
    """Turn the hue by ``hue_factor`` of a full turn.

    Args:
        img: BGR, ``[H, W, 3]``; uint8 with Pillow.
        hue_factor: in ``[-0.5, 0.5]``.
        backend: ``'cv2'`` or ``'pillow'``; the choice of :func:`use_backend` by default.
    """
    if not -0.5 <= hue_factor <= 0.5:
        raise ValueError(f"hue_factor must lie in [-0.5, 0.5], got {hue_factor}")
    if img.ndim != 3:
        raise ValueError(f"adjust_hue takes an image of 3 dimensions, got {img.ndim}")
    turn = np.uint8(int(hue_factor * 255) % 256)  # hues wrap, as bytes do
    if _by_pillow(backend):
        from PIL import Image

        if img.dtype != np.uint8:
            raise TypeError(f"Pillow changes uint8 images, got {img.dtype}")
        rgb = Image.fromarray(np.ascontiguousarray(img[..., ::-1]))
        hue, saturation, value = rgb.convert("HSV").split()
        turned = Image.fromarray(np.asarray(hue) + turn)
        merged = Image.merge("HSV", (turned, saturation, value)).convert("RGB")
        return np.array(merged, dtype=img.dtype)[..., ::-1]
    hsv = cv2.cvtColor(img.astype(np.uint8), cv2.COLOR_BGR2HSV_FULL)
    hsv[..., 0] += turn
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR_FULL).astype(img.dtype)
