"""Learned augmentation policies (Zoph et al., arXiv:1906.11172) and their transforms."""
# ruff: noqa: NPY002 -- the global stream of numpy.random is the one that MMDetection draws from

from __future__ import annotations

import copy
from typing import Any

import cv2
import numpy as np

from fastdet.mmcv.image import (
    adjust_brightness,
    adjust_color,
    adjust_contrast,
    imequalize,
    imrotate,
    imshear,
    imtranslate,
)

from ..builder import PIPELINES
from .base import Results, Transform, keep_rows, sides
from .compose import Compose

__all__ = ["AutoAugment", "BrightnessTransform", "ColorTransform", "ContrastTransform",
           "EqualizeTransform", "Rotate", "Shear", "Translate"]

MAX_LEVEL = 10


def _part(level: float, greatest: float) -> float:
    """A level's part of the greatest magnitude."""
    return level / MAX_LEVEL * greatest


def _check(level: Any, prob: float, direction: str = "horizontal") -> None:
    if not isinstance(level, (int, float)) or not 0 <= level <= MAX_LEVEL:
        raise ValueError(f"level must be from 0 to {MAX_LEVEL}, got {level!r}")
    if not 0 <= prob <= 1:
        raise ValueError(f"prob must be from 0 to 1, got {prob!r}")
    if direction not in ("horizontal", "vertical"):
        raise ValueError(f"direction must be horizontal or vertical, got {direction!r}")


@PIPELINES.register_module()
class AutoAugment(Transform):
    """One of the policies, drawn for each image.

    Args:
        policies: lists of transforms as configs.
    """

    def __init__(self, policies: list[list[dict[str, Any]]]) -> None:
        if not isinstance(policies, list) or not policies:
            raise ValueError(f"policies must be a list that is not empty, got {policies!r}")
        for policy in policies:
            if not isinstance(policy, list) or not policy or not all(
                    isinstance(t, dict) and "type" in t for t in policy):
                raise ValueError("a policy must be a list of configs with 'type', got "
                                 f"{policy!r}")
        self.policies = copy.deepcopy(policies)
        self.transforms = [Compose(policy) for policy in self.policies]

    def __call__(self, results: Results) -> Results | None:
        return np.random.choice(np.array(self.transforms, dtype=object))(results)


class _Move(Transform):
    """A transform that moves pixels, boxes, masks and semantic maps alike."""

    prob: float
    random_negative_prob: float
    img_fill_val: tuple[float, ...]
    seg_ignore_label: int
    min_size: float = 0

    def _fill(self, value: Any) -> tuple[float, ...]:
        values = (float(value),) * 3 if isinstance(value, (int, float)) else tuple(
            float(v) for v in value)
        if len(values) != 3 or not all(0 <= v <= 255 for v in values):
            raise ValueError(f"img_fill_val must be from 0 to 255, one number or three, got "
                             f"{value!r}")
        return values

    def _signed(self, value: Any) -> Any:
        return -value if np.random.rand() < self.random_negative_prob else value

    def _move(self, results: Results, pixels: Any, corners: Any, masks: Any) -> Results:
        """Move all that is there.

        Args:
            pixels: of an image or map and a colour.
            corners: of boxes' corners x, y [2, 4, n].
            masks: of masks and their size.
        """
        for key in results.get("img_fields", ["img"]):
            img = results[key]
            results[key] = pixels(img, self.img_fill_val).astype(img.dtype)
        h, w = results["img_shape"][:2]
        for key in results.get("bbox_fields", []):
            x1, y1, x2, y2 = results[key].T
            xs, ys = corners(np.stack([[x1, x2, x1, x2], [y1, y1, y2, y2]]))
            results[key] = np.stack([
                np.clip(xs.min(0), 0, w), np.clip(ys.min(0), 0, h),
                np.clip(xs.max(0), 0, w), np.clip(ys.max(0), 0, h)], axis=-1).astype(
                    results[key].dtype)
        for key in results.get("mask_fields", []):
            results[key] = masks(results[key], (h, w))
        for key in results.get("seg_fields", []):
            seg = results[key]
            results[key] = pixels(seg, self.seg_ignore_label).astype(seg.dtype)
        for key in results.get("bbox_fields", []):
            wide, high = sides(results[key])
            keep = np.flatnonzero((wide > self.min_size) & (high > self.min_size))
            results[key] = results[key][keep]
            keep_rows(results, key, keep)
        return results


@PIPELINES.register_module()
class Shear(_Move):
    """Shear by chance.

    Args:
        level: 0 to 10.
        img_fill_val: the colour outside the image.
        seg_ignore_label: of semantic maps there.
        prob: the chance.
        direction: ``'horizontal'`` or ``'vertical'``.
        max_shear_magnitude: of level 10.
        random_negative_prob: the chance of the other way.
        interpolation: see :func:`fastdet.mmcv.image.imshear`.
    """

    def __init__(self, level: float, img_fill_val: Any = 128, seg_ignore_label: int = 255,
                 prob: float = 0.5, direction: str = "horizontal",
                 max_shear_magnitude: float = 0.3, random_negative_prob: float = 0.5,
                 interpolation: str = "bilinear") -> None:
        _check(level, prob, direction)
        if not isinstance(max_shear_magnitude, float) or not 0 <= max_shear_magnitude <= 1:
            raise ValueError("max_shear_magnitude must be a float from 0 to 1, got "
                             f"{max_shear_magnitude!r}")
        self.level = level
        self.magnitude = _part(level, max_shear_magnitude)
        self.img_fill_val = self._fill(img_fill_val)
        self.seg_ignore_label = seg_ignore_label
        self.prob = prob
        self.direction = direction
        self.max_shear_magnitude = max_shear_magnitude
        self.random_negative_prob = random_negative_prob
        self.interpolation = interpolation

    def __call__(self, results: Results) -> Results:
        if np.random.rand() > self.prob:
            return results
        magnitude = self._signed(self.magnitude)
        matrix = np.eye(2, dtype=np.float32)
        matrix[(0, 1) if self.direction == "horizontal" else (1, 0)] = magnitude
        return self._move(
            results,
            lambda img, fill: imshear(img, magnitude, self.direction, border_value=fill,
                                      interpolation=self.interpolation),
            lambda xy: np.matmul(matrix, xy.astype(np.float32).transpose(2, 0, 1)).transpose(
                1, 2, 0),
            lambda masks, shape: masks.shear(shape, magnitude, self.direction, border_value=0,
                                             interpolation=self.interpolation))


@PIPELINES.register_module()
class Rotate(_Move):
    """Rotate by chance.

    Args:
        level: 0 to 10.
        scale: a factor of the size.
        center: (x, y) of the fixed point; the image's centre by default.
        img_fill_val, seg_ignore_label, prob, random_negative_prob: see :class:`Shear`.
        max_rotate_angle: degrees of level 10.
    """

    def __init__(self, level: float, scale: float = 1, center: Any = None,
                 img_fill_val: Any = 128, seg_ignore_label: int = 255, prob: float = 0.5,
                 max_rotate_angle: float = 30, random_negative_prob: float = 0.5) -> None:
        _check(level, prob)
        if isinstance(center, (int, float)):
            center = (center, center)
        if center is not None and not (isinstance(center, tuple) and len(center) == 2):
            raise ValueError(f"center must be a number or (x, y), got {center!r}")
        self.level = level
        self.scale = scale
        self.angle = _part(level, max_rotate_angle)
        self.center = center
        self.img_fill_val = self._fill(img_fill_val)
        self.seg_ignore_label = seg_ignore_label
        self.prob = prob
        self.max_rotate_angle = max_rotate_angle
        self.random_negative_prob = random_negative_prob

    def __call__(self, results: Results) -> Results:
        if np.random.rand() > self.prob:
            return results
        h, w = results["img"].shape[:2]
        center = self.center or ((w - 1) * 0.5, (h - 1) * 0.5)
        angle = self._signed(self.angle)
        matrix = cv2.getRotationMatrix2D(center, -angle, self.scale)

        def corners(xy: np.ndarray) -> np.ndarray:
            homogeneous = np.concatenate([xy, np.ones_like(xy[:1])])
            return np.einsum("ij,jkn->ikn", matrix, homogeneous)

        return self._move(
            results,
            lambda img, fill: imrotate(img, angle, center, self.scale, border_value=fill), corners,
            lambda masks, shape: masks.rotate(shape, angle, center, self.scale, 0))


@PIPELINES.register_module()
class Translate(_Move):
    """Shift by chance.

    Args:
        level: 0 to 10.
        prob, img_fill_val, seg_ignore_label, direction, random_negative_prob: see
            :class:`Shear`.
        max_translate_offset: pixels of level 10.
        min_size: boxes that are left narrower are dropped.
    """

    def __init__(self, level: float, prob: float = 0.5, img_fill_val: Any = 128,
                 seg_ignore_label: int = 255, direction: str = "horizontal",
                 max_translate_offset: float = 250.0, random_negative_prob: float = 0.5,
                 min_size: float = 0) -> None:
        _check(level, prob, direction)
        self.level = level
        self.offset = int(_part(level, max_translate_offset))
        self.prob = prob
        self.img_fill_val = self._fill(img_fill_val)
        self.seg_ignore_label = seg_ignore_label
        self.direction = direction
        self.max_translate_offset = max_translate_offset
        self.random_negative_prob = random_negative_prob
        self.min_size = min_size

    def __call__(self, results: Results) -> Results:
        if np.random.rand() > self.prob:
            return results
        offset = self._signed(self.offset)
        step = np.array([offset, 0] if self.direction == "horizontal" else [0, offset])
        return self._move(
            results,
            lambda img, fill: imtranslate(img, offset, self.direction, fill),
            lambda xy: xy + step[:, None, None],
            lambda masks, shape: masks.translate(shape, offset, self.direction, 0))


class _Colour(Transform):
    """A change of an image's colours by chance.

    Args:
        level: 0 to 10, for factors of 0.1 to 1.9.
        prob: the chance.
    """

    def __init__(self, level: float, prob: float = 0.5) -> None:
        _check(level, prob)
        self.level = level
        self.prob = prob
        self.factor = level / MAX_LEVEL * 1.8 + 0.1

    def _change(self, img: np.ndarray) -> np.ndarray:
        raise TypeError(f"{type(self).__name__} does not define its change")

    def __call__(self, results: Results) -> Results:
        if np.random.rand() <= self.prob:
            for key in results.get("img_fields", ["img"]):
                img = results[key]
                results[key] = self._change(img).astype(img.dtype)
        return results


@PIPELINES.register_module()
class ColorTransform(_Colour):
    """Saturation by chance; see :class:`_Colour`."""

    def _change(self, img: np.ndarray) -> np.ndarray:
        return adjust_color(img, self.factor)


@PIPELINES.register_module()
class BrightnessTransform(_Colour):
    """Brightness by chance; see :class:`_Colour`."""

    def _change(self, img: np.ndarray) -> np.ndarray:
        return adjust_brightness(img, self.factor)


@PIPELINES.register_module()
class ContrastTransform(_Colour):
    """Contrast by chance; see :class:`_Colour`."""

    def _change(self, img: np.ndarray) -> np.ndarray:
        return adjust_contrast(img, self.factor)


@PIPELINES.register_module()
class EqualizeTransform(_Colour):
    """A flat histogram by chance.

    Args:
        prob: the chance.
    """

    def __init__(self, prob: float = 0.5) -> None:
        _check(0, prob)
        self.prob = prob

    def _change(self, img: np.ndarray) -> np.ndarray:
        return imequalize(img)
