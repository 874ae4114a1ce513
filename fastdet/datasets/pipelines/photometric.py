"""Changes of colour, and what other packages do to an image."""
# ruff: noqa: NPY002 -- the global stream of numpy.random is the one that MMDetection draws from

from __future__ import annotations

import copy
import inspect
from typing import Any

import cv2
import numpy as np
from numpy import random

from fastdet.core.mask import BitmapMasks, PolygonMasks
from fastdet.mmcv.image import bgr2hsv, hsv2bgr, imnormalize
from fastdet.mmcv.utils.misc import optional_import

from ..builder import PIPELINES
from .base import Results, Transform

__all__ = ["Albu", "Corrupt", "Normalize", "PhotoMetricDistortion", "YOLOXHSVRandomAug"]


@PIPELINES.register_module()
class Normalize(Transform):
    """``(img - mean) / std`` in float32; sets ``img_norm_cfg``.

    Args:
        mean: of each channel.
        std: of each channel.
        to_rgb: turn BGR into RGB first.
    """

    def __init__(self, mean: Any, std: Any, to_rgb: bool = True) -> None:
        self.mean = np.array(mean, dtype=np.float32)
        self.std = np.array(std, dtype=np.float32)
        self.to_rgb = to_rgb

    def __call__(self, results: Results) -> Results:
        for key in results.get("img_fields", ["img"]):
            results[key] = imnormalize(results[key], self.mean, self.std, self.to_rgb)
        results["img_norm_cfg"] = dict(mean=self.mean, std=self.std, to_rgb=self.to_rgb)
        return results


@PIPELINES.register_module()
class PhotoMetricDistortion(Transform):
    """Brightness, contrast, saturation, hue and the order of channels, each by chance (SSD,
    arXiv:1512.02325). Contrast comes before or after saturation and hue.

    Args:
        brightness_delta: added at most.
        contrast_range: factors.
        saturation_range: factors.
        hue_delta: degrees added at most.
    """

    def __init__(self, brightness_delta: float = 32, contrast_range: Any = (0.5, 1.5),
                 saturation_range: Any = (0.5, 1.5), hue_delta: float = 18) -> None:
        self.brightness_delta = brightness_delta
        self.contrast_lower, self.contrast_upper = contrast_range
        self.saturation_lower, self.saturation_upper = saturation_range
        self.hue_delta = hue_delta

    def _contrast(self, img: np.ndarray) -> None:
        if random.randint(2):
            img *= random.uniform(self.contrast_lower, self.contrast_upper)

    def __call__(self, results: Results) -> Results:
        if results.get("img_fields", ["img"]) != ["img"]:
            raise ValueError("PhotoMetricDistortion changes img alone, got img_fields="
                             f"{results['img_fields']}")
        img = results["img"].astype(np.float32)
        if random.randint(2):
            img += random.uniform(-self.brightness_delta, self.brightness_delta)
        contrast_first = random.randint(2)
        if contrast_first:
            self._contrast(img)
        img = bgr2hsv(img)
        if random.randint(2):
            img[..., 1] *= random.uniform(self.saturation_lower, self.saturation_upper)
        if random.randint(2):
            hue = img[..., 0]
            hue += random.uniform(-self.hue_delta, self.hue_delta)
            hue[hue > 360] -= 360
            hue[hue < 0] += 360
        img = hsv2bgr(img)
        if not contrast_first:
            self._contrast(img)
        if random.randint(2):
            img = img[..., random.permutation(3)]
        results["img"] = img
        return results


@PIPELINES.register_module()
class YOLOXHSVRandomAug(Transform):
    """Hue, saturation and value changed by chance (YOLOX, arXiv:2107.08430).

    Args:
        hue_delta, saturation_delta, value_delta: added at most, of 180, 255 and 255.
    """

    def __init__(self, hue_delta: int = 5, saturation_delta: int = 30,
                 value_delta: int = 30) -> None:
        self.hue_delta = hue_delta
        self.saturation_delta = saturation_delta
        self.value_delta = value_delta

    def __call__(self, results: Results) -> Results:
        img = results["img"]
        gains = random.uniform(-1, 1, 3) * [self.hue_delta, self.saturation_delta,
                                            self.value_delta]
        gains *= random.randint(0, 2, 3)
        gains = gains.astype(np.int16)
        hsv = cv2.cvtColor(img, cv2.COLOR_BGR2HSV).astype(np.int16)
        hsv[..., 0] = (hsv[..., 0] + gains[0]) % 180
        hsv[..., 1:] = np.clip(hsv[..., 1:] + gains[1:], 0, 255)
        results["img"] = cv2.cvtColor(hsv.astype(img.dtype), cv2.COLOR_HSV2BGR)
        return results


@PIPELINES.register_module()
class Corrupt(Transform):
    """Spoil an image as in Michaelis et al., arXiv:1907.07484, with the package imagecorruptions.

    Args:
        corruption: its name there.
        severity: 1 to 5; 0 leaves the image as it is.
    """

    def __init__(self, corruption: str, severity: int = 1) -> None:
        self._corrupt = optional_import("imagecorruptions", "Corrupt").corrupt
        self.corruption = corruption
        self.severity = severity

    def __call__(self, results: Results) -> Results:
        results["img"] = self._corrupt(results["img"].astype(np.uint8),
                                       corruption_name=self.corruption, severity=self.severity)
        return results


@PIPELINES.register_module()
class Albu(Transform):
    """Transforms of the package albumentations.

    Args:
        transforms: configs, ``type`` a name there.
        bbox_params: of ``albumentations.BboxParams``; ``filter_lost_elements`` also drops labels
            and masks of boxes that are gone.
        keymap: albumentations' name of each of our keys.
        update_pad_shape: set ``pad_shape`` to that of the new image.
        skip_img_without_anno: drop an image without boxes, with ``filter_lost_elements``.
    """

    def __init__(self, transforms: list[dict[str, Any]],
                 bbox_params: dict[str, Any] | None = None,
                 keymap: dict[str, str] | None = None, update_pad_shape: bool = False,
                 skip_img_without_anno: bool = False) -> None:
        self._albu = optional_import("albumentations", "Albu")
        params = copy.deepcopy(bbox_params)
        self.transforms = copy.deepcopy(transforms)
        self.update_pad_shape = update_pad_shape
        self.skip_img_without_anno = skip_img_without_anno
        self.filter_lost_elements = False
        if params is not None and "label_fields" in params and "filter_lost_elements" in params:
            self.filter_lost_elements = True
            self.origin_label_fields = params["label_fields"]
            params["label_fields"] = ["idx_mapper"]
            del params["filter_lost_elements"]
        self.bbox_params = params and self.albu_builder(params)
        self.aug = self._albu.Compose([self.albu_builder(t) for t in self.transforms],
                                      bbox_params=self.bbox_params)
        self.keymap_to_albu = keymap or {"img": "image", "gt_masks": "masks",
                                         "gt_bboxes": "bboxes"}
        self.keymap_back = {v: k for k, v in self.keymap_to_albu.items()}

    def albu_builder(self, cfg: dict[str, Any]) -> Any:
        """What a config names in albumentations, nested ones too."""
        if not isinstance(cfg, dict) or "type" not in cfg:
            raise TypeError(f"a transform of Albu must be a dict with 'type', got {cfg!r}")
        args = dict(cfg)
        kind = args.pop("type")
        if isinstance(kind, str):
            found = getattr(self._albu, kind, None)
            if found is None:
                raise KeyError(f"albumentations has no {kind!r}")
            kind = found
        elif not inspect.isclass(kind):
            raise TypeError(f"type must be a name or a class, got {kind!r}")
        if "transforms" in args:
            args["transforms"] = [self.albu_builder(t) for t in args["transforms"]]
        return kind(**args)

    @staticmethod
    def mapper(d: Results, keymap: dict[str, str]) -> Results:
        """The dict with its keys renamed."""
        return {keymap.get(k, k): v for k, v in d.items()}

    def __call__(self, results: Results) -> Results | None:
        given = self.mapper(results, self.keymap_to_albu)
        masks = given.get("masks")
        if "bboxes" in given:
            given["bboxes"] = list(np.asarray(given["bboxes"]))
            if self.filter_lost_elements:
                given["idx_mapper"] = np.arange(len(given["bboxes"]))
        if masks is not None:
            if isinstance(masks, PolygonMasks):
                raise ValueError("Albu takes masks as bitmaps; load them with poly2mask=True")
            given["masks"] = masks.masks
        out = self.aug(**given)
        if "bboxes" in out:
            out["bboxes"] = np.array(out["bboxes"], dtype=np.float32).reshape(-1, 4)
            if self.filter_lost_elements:
                rows = np.array(out["idx_mapper"], dtype=int)
                for label in self.origin_label_fields:
                    out[label] = np.array([out[label][i] for i in rows])
                if masks is not None:
                    kept = np.array([out["masks"][i] for i in rows])
                    out["masks"] = BitmapMasks(kept, *out["image"].shape[:2])
                if not len(rows) and self.skip_img_without_anno:
                    return None
        if masks is not None and not isinstance(out["masks"], BitmapMasks):
            out["masks"] = BitmapMasks(np.array(out["masks"]), *out["image"].shape[:2])
        if "gt_labels" in out:
            out["gt_labels"] = np.array(out["gt_labels"]).astype(np.int64)
        back = self.mapper(out, self.keymap_back)
        if self.update_pad_shape:
            back["pad_shape"] = back["img"].shape
        return back
