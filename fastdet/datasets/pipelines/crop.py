"""Parts of images, and holes in them."""
# ruff: noqa: NPY002 -- the global stream of numpy.random is the one that MMDetection draws from

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy import random

from fastdet.core.evaluation.bbox_overlaps import bbox_overlaps

from ..builder import PIPELINES
from .base import MASKS, Results, Transform, keep_rows, sides

__all__ = ["CutOut", "MinIoURandomCrop", "RandomCenterCropPad", "RandomCrop"]


@PIPELINES.register_module()
class RandomCrop(Transform):
    """A random part of the image.

    Args:
        crop_size: by ``crop_type``: (height, width) in pixels (``'absolute'``); least and greatest
            side (``'absolute_range'``); parts of the image's sides (``'relative'``); the least
            such parts (``'relative_range'``).
        crop_type: one of these.
        allow_negative_crop: keep a part that holds no box; the image is dropped otherwise.
        recompute_bbox: boxes from the cropped masks.
        bbox_clip_border: clip boxes to the part.
    """

    def __init__(self, crop_size: Any, crop_type: str = "absolute",
                 allow_negative_crop: bool = False, recompute_bbox: bool = False,
                 bbox_clip_border: bool = True) -> None:
        known = ("relative_range", "relative", "absolute", "absolute_range")
        if crop_type not in known:
            raise ValueError(f"crop_type must be one of {', '.join(known)}, got {crop_type!r}")
        if crop_type.startswith("absolute"):
            if not all(isinstance(s, int) and s > 0 for s in crop_size):
                raise ValueError(f"crop_size must be two positive integers, got {crop_size!r}")
            if crop_type == "absolute_range" and crop_size[0] > crop_size[1]:
                raise ValueError(f"crop_size must be (least, greatest), got {crop_size!r}")
        elif not all(0 < s <= 1 for s in crop_size):
            raise ValueError(f"crop_size must be two numbers in (0, 1], got {crop_size!r}")
        self.crop_size = crop_size
        self.crop_type = crop_type
        self.allow_negative_crop = allow_negative_crop
        self.recompute_bbox = recompute_bbox
        self.bbox_clip_border = bbox_clip_border

    def _get_crop_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        h, w = image_size
        a, b = self.crop_size
        if self.crop_type == "absolute":
            return min(a, h), min(b, w)
        if self.crop_type == "absolute_range":
            return (random.randint(min(h, a), min(h, b) + 1),
                    random.randint(min(w, a), min(w, b) + 1))
        if self.crop_type == "relative":
            return int(h * a + 0.5), int(w * b + 0.5)
        least = np.asarray(self.crop_size, dtype=np.float32)
        part_h, part_w = least + random.rand(2) * (1 - least)
        return int(h * part_h + 0.5), int(w * part_w + 0.5)

    def __call__(self, results: Results) -> Results | None:
        crop = self._get_crop_size(results["img"].shape[:2])
        for key in results.get("img_fields", ["img"]):
            img = results[key]
            y1 = random.randint(0, max(img.shape[0] - crop[0], 0) + 1)
            x1 = random.randint(0, max(img.shape[1] - crop[1], 0) + 1)
            y2, x2 = y1 + crop[0], x1 + crop[1]
            results[key] = img[y1:y2, x1:x2, ...]
            results["img_shape"] = results[key].shape
        h, w = results["img_shape"][:2]
        for key in results.get("bbox_fields", []):
            boxes = results[key] - np.array([x1, y1, x1, y1], dtype=np.float32)
            if self.bbox_clip_border:
                boxes[:, 0::2] = np.clip(boxes[:, 0::2], 0, w)
                boxes[:, 1::2] = np.clip(boxes[:, 1::2], 0, h)
            wide, high = sides(boxes)
            valid = (wide > 0) & (high > 0)
            if key == "gt_bboxes" and not valid.any() and not self.allow_negative_crop:
                return None
            results[key] = boxes[valid, :]
            keep_rows(results, key, valid)
            mask = MASKS.get(key)
            if mask in results:
                results[mask] = results[mask].crop(np.asarray([x1, y1, x2, y2]))
                if self.recompute_bbox:
                    results[key] = results[mask].get_bboxes()
        for key in results.get("seg_fields", []):
            results[key] = results[key][y1:y2, x1:x2]
        return results


@PIPELINES.register_module()
class MinIoURandomCrop(Transform):
    """A part that overlaps every box by a drawn amount or more (SSD, arXiv:1512.02325).

    Args:
        min_ious: amounts that are drawn from; beside them the whole image and any part.
        min_crop_size: least part of the image's sides.
        bbox_clip_border: clip boxes to the part.
    """

    def __init__(self, min_ious: Any = (0.1, 0.3, 0.5, 0.7, 0.9), min_crop_size: float = 0.3,
                 bbox_clip_border: bool = True) -> None:
        self.min_ious = min_ious
        self.sample_mode = (1, *min_ious, 0)
        self.min_crop_size = min_crop_size
        self.bbox_clip_border = bbox_clip_border

    def __call__(self, results: Results) -> Results:
        h, w = results["img"].shape[:2]
        boxes = np.concatenate([results[key] for key in results["bbox_fields"]], 0)
        while True:
            mode = random.choice(self.sample_mode)
            if mode == 1:
                return results
            for _ in range(50):
                patch = self._draw(h, w)
                if patch is None:
                    continue
                overlaps = bbox_overlaps(patch.reshape(-1, 4), boxes.reshape(-1, 4)).reshape(-1)
                if len(overlaps) and (overlaps.min() < mode
                                      or not self._centred(boxes, patch).any()):
                    continue
                return self._crop(results, patch, len(overlaps) > 0)

    def _draw(self, h: int, w: int) -> np.ndarray | None:
        new_w = random.uniform(self.min_crop_size * w, w)
        new_h = random.uniform(self.min_crop_size * h, h)
        if new_h / new_w < 0.5 or new_h / new_w > 2:
            return None
        # Between this bound and 1, as MMDetection draws it.
        left, top = random.uniform(w - new_w), random.uniform(h - new_h)
        patch = np.array((int(left), int(top), int(left + new_w), int(top + new_h)))
        return None if patch[2] == patch[0] or patch[3] == patch[1] else patch

    @staticmethod
    def _centred(boxes: np.ndarray, patch: np.ndarray) -> np.ndarray:
        """Which boxes have their centre in the part."""
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        return ((centre > patch[:2]) & (centre < patch[2:])).all(axis=1)

    def _crop(self, results: Results, patch: np.ndarray, has_boxes: bool) -> Results:
        x1, y1, x2, y2 = patch
        for key in results.get("bbox_fields", []) if has_boxes else []:
            own = results[key].copy()
            keep = self._centred(own, patch)
            own = own[keep]
            if self.bbox_clip_border:
                own[:, 2:] = own[:, 2:].clip(max=patch[2:])
                own[:, :2] = own[:, :2].clip(min=patch[:2])
            own -= np.tile(patch[:2], 2)
            results[key] = own
            keep_rows(results, key, keep)
            mask = MASKS.get(key)
            if mask in results:
                results[mask] = results[mask].crop(patch)
        results["img"] = results["img"][y1:y2, x1:x2]
        results["img_shape"] = results["img"].shape
        for key in results.get("seg_fields", []):
            results[key] = results[key][y1:y2, x1:x2]
        return results


@PIPELINES.register_module()
class RandomCenterCropPad(Transform):
    """A part of a fixed size around a random centre, padded with the mean (CenterNet,
    arXiv:1904.07850); in test mode the whole image padded.

    Args:
        crop_size: (height, width) in training.
        ratios: factors of it that are drawn from.
        border: the centre stays so far from the image's edges, less in small images.
        mean: the image's mean, what is padded with.
        std: not used; part of the normalisation.
        to_rgb: ``mean`` is in RGB.
        test_mode: pad the whole image.
        test_pad_mode: ``('logical_or', n)``: sides ``| n``; ``('size_divisor', n)``: multiples.
        test_pad_add_pix: added to the sides with ``'logical_or'``.
        bbox_clip_border: clip boxes to the part.
    """

    def __init__(self, crop_size: Any = None, ratios: Any = (0.9, 1.0, 1.1), border: Any = 128,
                 mean: Any = None, std: Any = None, to_rgb: bool | None = None,
                 test_mode: bool = False, test_pad_mode: Any = ("logical_or", 127),
                 test_pad_add_pix: int = 0, bbox_clip_border: bool = True) -> None:
        if test_mode:
            if crop_size is not None or ratios is not None or border is not None:
                raise ValueError("RandomCenterCropPad: crop_size, ratios and border must be None "
                                 "in test mode")
            if test_pad_mode[0] not in ("logical_or", "size_divisor"):
                raise ValueError("test_pad_mode must be ('logical_or', n) or ('size_divisor', n), "
                                 f"got {test_pad_mode!r}")
        else:
            if not isinstance(crop_size, (list, tuple)) or min(crop_size) <= 0:
                raise ValueError(f"crop_size must be (height, width), got {crop_size!r}")
            if not isinstance(ratios, (list, tuple)):
                raise ValueError(f"ratios must be a list or tuple, got {ratios!r}")
        self.crop_size = crop_size
        self.ratios = ratios
        self.border = border
        if mean is None or std is None or to_rgb is None:
            raise ValueError("RandomCenterCropPad needs mean, std and to_rgb, those of the "
                             "normalisation")
        self.to_rgb = to_rgb
        self.input_mean = mean
        self.input_std = std
        self.mean = mean[::-1] if to_rgb else mean
        self.std = std[::-1] if to_rgb else std
        self.test_mode = test_mode
        self.test_pad_mode = test_pad_mode
        self.test_pad_add_pix = test_pad_add_pix
        self.bbox_clip_border = bbox_clip_border

    @staticmethod
    def _get_border(border: int, size: int) -> int:
        """``border`` over the power of two that leaves room for a centre."""
        k = 2 * border / size
        return int(border // 2 ** (np.ceil(np.log2(np.ceil(k))) + (k == int(k))))

    @staticmethod
    def _filter_boxes(patch: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        return MinIoURandomCrop._centred(boxes, patch)

    def _crop_image_and_paste(self, image: np.ndarray, center: Any, size: Any
                              ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The part of ``size`` around ``center`` (y, x), its rows and columns that are image, and
        what these are in the image."""
        cy, cx = center
        th, tw = size
        h, w, channels = image.shape
        x0, x1 = max(0, cx - tw // 2), min(cx + tw // 2, w)
        y0, y1 = max(0, cy - th // 2), min(cy + th // 2, h)
        patch = np.array((int(x0), int(y0), int(x1), int(y1)))
        top, bottom = th // 2 - (cy - y0), th // 2 + (y1 - cy)
        left, right = tw // 2 - (cx - x0), tw // 2 + (x1 - cx)
        part = np.zeros((th, tw, channels), dtype=image.dtype)
        for i in range(channels):
            part[:, :, i] += self.mean[i]
        part[top:bottom, left:right] = image[y0:y1, x0:x1]
        return part, np.array([top, bottom, left, right], dtype=np.float32), patch

    def _train_aug(self, results: Results) -> Results:
        img = results["img"]
        h, w, _ = img.shape
        boxes = results["gt_bboxes"]
        while True:
            scale = random.choice(self.ratios)
            new_h, new_w = int(self.crop_size[0] * scale), int(self.crop_size[1] * scale)
            h_border, w_border = self._get_border(self.border, h), self._get_border(self.border, w)
            for _ in range(50):
                cx = random.randint(low=w_border, high=w - w_border)
                cy = random.randint(low=h_border, high=h - h_border)
                part, _, patch = self._crop_image_and_paste(img, (cy, cx), (new_h, new_w))
                if not self._filter_boxes(patch, boxes).any() and len(boxes):
                    continue
                results.update(img=part, img_shape=part.shape, pad_shape=part.shape)
                self._shift(results, patch, new_w // 2 - cx, new_h // 2 - cy, new_w, new_h)
                for key in results.get("seg_fields", []):
                    raise ValueError(f"RandomCenterCropPad cannot crop {key}, a semantic map")
                return results

    def _shift(self, results: Results, patch: np.ndarray, dx: int, dy: int, w: int,
               h: int) -> None:
        for key in results.get("bbox_fields", []):
            mask = self._filter_boxes(patch, results[key])
            boxes = results[key][mask]
            boxes[:, 0:4:2] += dx
            boxes[:, 1:4:2] += dy
            if self.bbox_clip_border:
                boxes[:, 0:4:2] = np.clip(boxes[:, 0:4:2], 0, w)
                boxes[:, 1:4:2] = np.clip(boxes[:, 1:4:2], 0, h)
            keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
            results[key] = boxes[keep]
            if key == "gt_bboxes":
                if "gt_masks" in results:
                    raise ValueError("RandomCenterCropPad only supports boxes, got gt_masks")
                if "gt_labels" in results:
                    results["gt_labels"] = results["gt_labels"][mask][keep]

    def _test_aug(self, results: Results) -> Results:
        img = results["img"]
        h, w, _ = img.shape
        mode, n = self.test_pad_mode
        if mode == "logical_or":
            size = (h | n) + self.test_pad_add_pix, (w | n) + self.test_pad_add_pix
        else:
            size = math.ceil(h / n) * n, math.ceil(w / n) * n
        part, border, _ = self._crop_image_and_paste(img, (h // 2, w // 2), size)
        results.update(img=part, img_shape=img.shape, pad_shape=part.shape, border=border)
        return results

    def __call__(self, results: Results) -> Results:
        img = results["img"]
        if img.dtype != np.float32 or img.ndim != 3 or img.shape[2] not in (1, 3):
            raise ValueError("RandomCenterCropPad needs an image [H, W, 3] of float32 "
                             "(LoadImageFromFile(to_float32=True)), got "
                             f"{list(img.shape)} of {img.dtype}")
        return self._test_aug(results) if self.test_mode else self._train_aug(results)


@PIPELINES.register_module()
class CutOut(Transform):
    """Rectangles at random places filled with one colour (DeVries, arXiv:1708.04552).

    Args:
        n_holes: how many, or the least and greatest number.
        cutout_shape: (w, h) in pixels, or a list of such to draw from.
        cutout_ratio: instead: parts of the image's sides.
        fill_in: the colour.
    """

    def __init__(self, n_holes: Any, cutout_shape: Any = None, cutout_ratio: Any = None,
                 fill_in: Any = (0, 0, 0)) -> None:
        if (cutout_shape is None) == (cutout_ratio is None):
            raise ValueError("CutOut needs one of cutout_shape and cutout_ratio, got "
                             + ("neither" if cutout_shape is None else "both"))
        given = cutout_ratio if cutout_shape is None else cutout_shape
        if not isinstance(given, (list, tuple)):
            raise TypeError(f"a CutOut's size must be a pair or a list of pairs, got {given!r}")
        self.n_holes = n_holes if isinstance(n_holes, tuple) else (n_holes, n_holes)
        if len(self.n_holes) != 2 or not 0 <= self.n_holes[0] <= self.n_holes[1]:
            raise ValueError(f"n_holes must be a number or (least, greatest), got {n_holes!r}")
        self.with_ratio = cutout_ratio is not None
        self.fill_in = fill_in
        self.candidates = given if isinstance(given, list) else [given]

    def __call__(self, results: Results) -> Results:
        h, w = results["img"].shape[:2]
        for _ in range(random.randint(self.n_holes[0], self.n_holes[1] + 1)):
            x1, y1 = random.randint(0, w), random.randint(0, h)
            cut_w, cut_h = self.candidates[random.randint(0, len(self.candidates))]
            if self.with_ratio:
                cut_w, cut_h = int(cut_w * w), int(cut_h * h)
            results["img"][y1:np.clip(y1 + cut_h, 0, h), x1:np.clip(x1 + cut_w, 0, w)] = \
                self.fill_in
        return results
