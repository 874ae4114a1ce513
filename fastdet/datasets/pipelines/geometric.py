"""Images, boxes, masks and semantic maps resized, mirrored, shifted, padded."""
# ruff: noqa: NPY002 -- the global stream of numpy.random is the one that MMDetection draws from

from __future__ import annotations

from typing import Any

import numpy as np
from numpy import random

from fastdet.mmcv.image import imflip, impad, impad_to_multiple, imrescale, imresize

from ..builder import PIPELINES
from .base import LABELS, Results, Transform, sides

__all__ = ["Expand", "Pad", "RandomFlip", "RandomShift", "Resize", "SegRescale"]


@PIPELINES.register_module()
class Resize(Transform):
    """Resize to ``scale`` or by ``scale_factor``, where the results hold one, or as given here.

    Sets ``scale``, ``scale_idx``, ``img_shape``, ``pad_shape``, ``scale_factor`` (w, h, w, h),
    ``keep_ratio``.

    Args:
        img_scale: (width, height), or a list of such: one is drawn (``'value'``), or the long and
            the short side between those of two (``'range'``).
        multiscale_mode: ``'range'`` or ``'value'``.
        ratio_range: draw a factor of the one ``img_scale`` instead.
        keep_ratio: fit into the scale with the proportions kept.
        bbox_clip_border: clip boxes to the image.
        backend: ``'cv2'`` or ``'pillow'``.
        interpolation: see :func:`fastdet.mmcv.image.imresize`.
        override: resize once more where an earlier step has.
    """

    def __init__(self, img_scale: Any = None, multiscale_mode: str = "range",
                 ratio_range: tuple[float, float] | None = None, keep_ratio: bool = True,
                 bbox_clip_border: bool = True, backend: str = "cv2",
                 interpolation: str = "bilinear", override: bool = False) -> None:
        self.img_scale: Any = None
        if img_scale is not None:
            self.img_scale = img_scale if isinstance(img_scale, list) else [img_scale]
            if not all(isinstance(s, tuple) for s in self.img_scale):
                raise TypeError("img_scale must be a tuple (width, height) or a list of such, got "
                                f"{img_scale!r}")
        if ratio_range is not None and (self.img_scale is None or len(self.img_scale) != 1):
            raise ValueError(f"ratio_range needs one img_scale, got {img_scale!r}")
        if ratio_range is None and multiscale_mode not in ("value", "range"):
            raise ValueError(f"multiscale_mode must be value or range, got {multiscale_mode!r}")
        self.multiscale_mode = multiscale_mode
        self.ratio_range = ratio_range
        self.keep_ratio = keep_ratio
        self.bbox_clip_border = bbox_clip_border
        self.backend = backend
        self.interpolation = interpolation
        self.override = override

    @staticmethod
    def random_select(img_scales: list[tuple[int, int]]) -> tuple[tuple[int, int], int]:
        """One of the scales, and which."""
        i = random.randint(len(img_scales))
        return img_scales[i], i

    @staticmethod
    def random_sample(img_scales: list[tuple[int, int]]) -> tuple[tuple[int, int], None]:
        """A long and a short side between those of two scales."""
        if len(img_scales) != 2:
            raise ValueError(f"multiscale_mode='range' needs two scales, got {img_scales}")
        long, short = [max(s) for s in img_scales], [min(s) for s in img_scales]
        return (random.randint(min(long), max(long) + 1),
                random.randint(min(short), max(short) + 1)), None

    @staticmethod
    def random_sample_ratio(img_scale: tuple[int, int], ratio_range: tuple[float, float]
                            ) -> tuple[tuple[int, int], None]:
        """The scale times a factor in the range."""
        low, high = ratio_range
        if low > high:
            raise ValueError(f"ratio_range must be (least, greatest), got {ratio_range}")
        ratio = random.random_sample() * (high - low) + low
        return (int(img_scale[0] * ratio), int(img_scale[1] * ratio)), None

    def _random_scale(self, results: Results) -> None:
        index: int | None = 0
        if self.img_scale is None:
            raise ValueError("Resize: neither img_scale nor a scale in the results is given")
        if self.ratio_range is not None:
            scale, index = self.random_sample_ratio(self.img_scale[0], self.ratio_range)
        elif len(self.img_scale) == 1:
            scale = self.img_scale[0]
        elif self.multiscale_mode == "range":
            scale, index = self.random_sample(self.img_scale)
        else:
            scale, index = self.random_select(self.img_scale)
        results["scale"], results["scale_idx"] = scale, index

    def _resize_img(self, results: Results) -> None:
        for key in results.get("img_fields", ["img"]):
            img, scale = results[key], results["scale"]
            if self.keep_ratio:
                resized = imrescale(img, scale, interpolation=self.interpolation,
                                    backend=self.backend)
                # The sides are rounded: not quite the factor that was asked for.
                factors = (resized.shape[1] / img.shape[1], resized.shape[0] / img.shape[0])
            else:
                resized, *factors = imresize(img, scale, return_scale=True,
                                             interpolation=self.interpolation,
                                             backend=self.backend)
            results[key] = resized
            results.update(img_shape=resized.shape, pad_shape=resized.shape,
                           scale_factor=np.array([*factors, *factors], dtype=np.float32),
                           keep_ratio=self.keep_ratio)

    def _resize_rest(self, results: Results) -> None:
        h, w = results["img_shape"][:2]
        for key in results.get("bbox_fields", []):
            boxes = results[key] * results["scale_factor"]
            if self.bbox_clip_border:
                boxes[:, 0::2] = np.clip(boxes[:, 0::2], 0, w)
                boxes[:, 1::2] = np.clip(boxes[:, 1::2], 0, h)
            results[key] = boxes
        for key in results.get("mask_fields", []):
            if results[key] is not None:
                results[key] = results[key].rescale(results["scale"]) if self.keep_ratio \
                    else results[key].resize((h, w))
        for key in results.get("seg_fields", []):
            resize = imrescale if self.keep_ratio else imresize
            results[key] = resize(results[key], results["scale"], interpolation="nearest",
                                  backend=self.backend)

    def __call__(self, results: Results) -> Results:
        if "scale" in results and self.override:
            results.pop("scale")
            results.pop("scale_factor", None)
        elif "scale" in results and "scale_factor" in results:
            raise ValueError("Resize: scale and scale_factor cannot be both set; an image is "
                             "resized twice only with override=True")
        if "scale" not in results:
            factor = results.get("scale_factor")
            if factor is None:
                self._random_scale(results)
            elif isinstance(factor, float):
                h, w = results["img"].shape[:2]
                results["scale"] = (int(w * factor), int(h * factor))
            else:
                raise TypeError(f"Resize: scale_factor must be a float, got {factor!r}")
        self._resize_img(results)
        self._resize_rest(results)
        return results


@PIPELINES.register_module()
class RandomFlip(Transform):
    """Mirror, if ``flip`` in the results says so, or by chance.

    Args:
        flip_ratio: the chance; of several directions together, or of each in a list.
        direction: ``'horizontal'``, ``'vertical'``, ``'diagonal'``, or a list of such.

    Raises:
        ValueError: a chance or direction is none, or their lists differ in length.
    """

    def __init__(self, flip_ratio: Any = None, direction: Any = "horizontal") -> None:
        ratios = flip_ratio if isinstance(flip_ratio, list) else \
            [] if flip_ratio is None else [flip_ratio]
        if not all(isinstance(r, (int, float)) for r in ratios) or not 0 <= sum(ratios) <= 1:
            raise ValueError(f"flip_ratio must be from 0 to 1, all together, got {flip_ratio!r}")
        known = ("horizontal", "vertical", "diagonal")
        for name in direction if isinstance(direction, list) else [direction]:
            if name not in known:
                raise ValueError(f"direction must be one of {', '.join(known)}, got {name!r}")
        if isinstance(flip_ratio, list) and not (
                isinstance(direction, list) and len(flip_ratio) == len(direction)):
            raise ValueError(f"each flip_ratio needs a direction, got {flip_ratio} and "
                             f"{direction}")
        self.flip_ratio = flip_ratio
        self.direction = direction

    def bbox_flip(self, bboxes: np.ndarray, img_shape: tuple[int, ...],
                  direction: str) -> np.ndarray:
        """Mirror boxes [..., 4 k] in an image of (h, w)."""
        if bboxes.shape[-1] % 4:
            raise ValueError(f"boxes have 4 coordinates each, got {bboxes.shape[-1]}")
        if direction not in ("horizontal", "vertical", "diagonal"):
            raise ValueError(f"direction must be horizontal, vertical or diagonal, got "
                             f"{direction!r}")
        h, w = img_shape[:2]
        flipped = bboxes.copy()
        if direction != "vertical":
            flipped[..., 0::4], flipped[..., 2::4] = w - bboxes[..., 2::4], w - bboxes[..., 0::4]
        if direction != "horizontal":
            flipped[..., 1::4], flipped[..., 3::4] = h - bboxes[..., 3::4], h - bboxes[..., 1::4]
        return flipped

    def _draw(self) -> str | None:
        directions = self.direction if isinstance(self.direction, list) else [self.direction]
        if isinstance(self.flip_ratio, list):
            chances = [*self.flip_ratio, 1 - sum(self.flip_ratio)]
        else:
            each = self.flip_ratio / len(directions)
            chances = [each] * len(directions) + [1 - self.flip_ratio]
        return random.choice(np.array([*directions, None], dtype=object), p=chances)

    def __call__(self, results: Results) -> Results:
        if "flip" not in results:
            if self.flip_ratio is None:
                raise ValueError("RandomFlip: neither flip_ratio nor flip in the results is given")
            direction = self._draw()
            results["flip"] = direction is not None
            results.setdefault("flip_direction", direction)
        if not results["flip"]:
            return results
        direction = results["flip_direction"]
        for key in results.get("img_fields", ["img"]):
            results[key] = imflip(results[key], direction=direction)
        for key in results.get("bbox_fields", []):
            results[key] = self.bbox_flip(results[key], results["img_shape"], direction)
        for key in results.get("mask_fields", []):
            results[key] = results[key].flip(direction)
        for key in results.get("seg_fields", []):
            results[key] = imflip(results[key], direction=direction)
        return results


@PIPELINES.register_module()
class RandomShift(Transform):
    """Shift an image and its boxes by chance (YOLOF, arXiv:2103.09460).

    Args:
        shift_ratio: the chance.
        max_shift_px: the shift is less than so many pixels each way.
        filter_thr_px: boxes that are left narrower than this are dropped; where none is left the
            image stays as it is.
    """

    def __init__(self, shift_ratio: float = 0.5, max_shift_px: int = 32,
                 filter_thr_px: int = 1) -> None:
        if not 0 <= shift_ratio <= 1:
            raise ValueError(f"shift_ratio must be from 0 to 1, got {shift_ratio}")
        if max_shift_px < 0:
            raise ValueError(f"max_shift_px must not be negative, got {max_shift_px}")
        self.shift_ratio = shift_ratio
        self.max_shift_px = max_shift_px
        self.filter_thr_px = int(filter_thr_px)

    def __call__(self, results: Results) -> Results:
        if random.random() >= self.shift_ratio:
            return results
        h, w = results["img"].shape[:2]
        dx = random.randint(-self.max_shift_px, self.max_shift_px)
        dy = random.randint(-self.max_shift_px, self.max_shift_px)
        for key in results.get("bbox_fields", []):
            boxes = results[key].copy()
            boxes[..., 0::2] = np.clip(boxes[..., 0::2] + dx, 0, w)
            boxes[..., 1::2] = np.clip(boxes[..., 1::2] + dy, 0, h)
            wide, high = sides(boxes)
            valid = (wide > self.filter_thr_px) & (high > self.filter_thr_px)
            if key == "gt_bboxes" and not valid.any():
                return results
            results[key] = boxes[valid]
            if LABELS.get(key) in results:
                results[LABELS[key]] = results[LABELS[key]][valid]
        rows, columns = max(h - abs(dy), 0), max(w - abs(dx), 0)
        for key in results.get("img_fields", ["img"]):
            img = results[key]
            shifted = np.zeros_like(img)
            to_y, to_x, from_y, from_x = max(0, dy), max(0, dx), max(0, -dy), max(0, -dx)
            shifted[to_y:to_y + rows, to_x:to_x + columns] = \
                img[from_y:from_y + rows, from_x:from_x + columns]
            results[key] = shifted
        return results


@PIPELINES.register_module()
class Pad(Transform):
    """Pad on the right and at the bottom.

    Sets ``pad_shape``, ``pad_fixed_size``, ``pad_size_divisor``.

    Args:
        size: (height, width) of the result.
        size_divisor: instead: to multiples of this.
        pad_to_square: instead: to a square of the longer side.
        pad_val: of ``img``, ``masks`` and ``seg``.

    Raises:
        ValueError: not exactly one of the three is given.
    """

    def __init__(self, size: tuple[int, int] | None = None, size_divisor: int | None = None,
                 pad_to_square: bool = False,
                 pad_val: Any = dict(img=0, masks=0, seg=255)) -> None:
        if isinstance(pad_val, (int, float)):
            pad_val = dict(img=pad_val, masks=pad_val, seg=255)
        if not isinstance(pad_val, dict):
            raise TypeError(f"pad_val must be a dict, got {type(pad_val).__name__}")
        if (size is not None) + (size_divisor is not None) + bool(pad_to_square) != 1:
            raise ValueError("Pad needs exactly one of size, size_divisor and pad_to_square, got "
                             f"size={size}, size_divisor={size_divisor}, "
                             f"pad_to_square={pad_to_square}")
        self.size = size
        self.size_divisor = size_divisor
        self.pad_val = pad_val
        self.pad_to_square = pad_to_square

    def __call__(self, results: Results) -> Results:
        value = self.pad_val.get("img", 0)
        size = self.size
        for key in results.get("img_fields", ["img"]):
            if self.pad_to_square:
                size = (max(results[key].shape[:2]),) * 2
            results[key] = impad_to_multiple(results[key], self.size_divisor, pad_val=value) \
                if self.size_divisor is not None and size is None \
                else impad(results[key], shape=size, pad_val=value)
            results["pad_shape"] = results[key].shape
        results["pad_fixed_size"] = size
        results["pad_size_divisor"] = self.size_divisor
        shape = results["pad_shape"][:2]
        for key in results.get("mask_fields", []):
            results[key] = results[key].pad(shape, pad_val=self.pad_val.get("masks", 0))
        for key in results.get("seg_fields", []):
            results[key] = impad(results[key], shape=shape, pad_val=self.pad_val.get("seg", 255))
        return results


@PIPELINES.register_module()
class SegRescale(Transform):
    """Semantic maps by a factor, as heads predict them.

    Args:
        scale_factor: the factor.
        backend: ``'cv2'`` or ``'pillow'``.
    """

    def __init__(self, scale_factor: float = 1, backend: str = "cv2") -> None:
        self.scale_factor = scale_factor
        self.backend = backend

    def __call__(self, results: Results) -> Results:
        if self.scale_factor != 1:
            for key in results.get("seg_fields", []):
                results[key] = imrescale(results[key], self.scale_factor, interpolation="nearest",
                                         backend=self.backend)
        return results


@PIPELINES.register_module()
class Expand(Transform):
    """Put the image somewhere on a larger canvas, by chance (SSD, arXiv:1512.02325).

    ``img_shape`` stays what it was: MMDetection resizes afterwards.

    Args:
        mean: colour of the canvas, as in the normalisation.
        to_rgb: ``mean`` is in RGB.
        ratio_range: of the canvas's sides to the image's.
        seg_ignore_label: of semantic maps outside the image.
        prob: the chance.
    """

    def __init__(self, mean: Any = (0, 0, 0), to_rgb: bool = True, ratio_range: Any = (1, 4),
                 seg_ignore_label: int | None = None, prob: float = 0.5) -> None:
        self.to_rgb = to_rgb
        self.ratio_range = ratio_range
        self.mean = mean[::-1] if to_rgb else mean
        self.seg_ignore_label = seg_ignore_label
        self.prob = prob

    def __call__(self, results: Results) -> Results:
        if random.uniform(0, 1) > self.prob:
            return results
        img = results["img"]
        h, w, channels = img.shape
        ratio = random.uniform(*self.ratio_range)
        canvas = (int(h * ratio), int(w * ratio))
        expanded = np.full((*canvas, channels), self.mean, dtype=img.dtype)
        left = int(random.uniform(0, w * ratio - w))
        top = int(random.uniform(0, h * ratio - h))
        expanded[top:top + h, left:left + w] = img
        results["img"] = expanded
        for key in results.get("bbox_fields", []):
            results[key] = results[key] + np.tile((left, top), 2).astype(results[key].dtype)
        for key in results.get("mask_fields", []):
            results[key] = results[key].expand(*canvas, top, left)
        for key in results.get("seg_fields", []):
            seg = results[key]
            filled = np.full(canvas, self.seg_ignore_label, dtype=seg.dtype)
            filled[top:top + h, left:left + w] = seg
            results[key] = filled
        return results
