"""Objects moved within their image (InstaBoost, arXiv:1908.07801)."""
# ruff: noqa: NPY002 -- the global stream of numpy.random is the one that MMDetection draws from

from __future__ import annotations

from typing import Any

import numpy as np

from fastdet.mmcv.utils.misc import optional_import

from ..builder import PIPELINES
from .base import Results, Transform

__all__ = ["InstaBoost"]


@PIPELINES.register_module()
class InstaBoost(Transform):
    """The package instaboostfast, between loading an image and its annotations.

    Args:
        action_candidate: of ``'normal'``, ``'horizontal'``, ``'skip'``.
        action_prob: their chances.
        scale: least and greatest factor.
        dx, dy: the image's sides over this are the greatest shift.
        theta: degrees of rotation.
        color_prob: the chance of a change of colour.
        hflag: whether to use the heat map.
        aug_ratio: the chance that an image is changed.

    Raises:
        ImportError: instaboostfast is not installed.
    """

    def __init__(self, action_candidate: Any = ("normal", "horizontal", "skip"),
                 action_prob: Any = (1, 0, 0), scale: Any = (0.8, 1.2), dx: float = 15,
                 dy: float = 15, theta: Any = (-1, 1), color_prob: float = 0.5,
                 hflag: bool = False, aug_ratio: float = 0.5) -> None:
        self._package = optional_import("instaboostfast", "InstaBoost")
        self.cfg = self._package.InstaBoostConfig(action_candidate, action_prob, scale, dx, dy,
                                                  theta, color_prob, hflag)
        self.aug_ratio = aug_ratio

    def __call__(self, results: Results) -> Results:
        img = results["img"]
        if not np.random.choice([0, 1], p=[1 - self.aug_ratio, self.aug_ratio]):
            return results
        info = results["ann_info"]
        given = [dict(category_id=label, segmentation=mask, bbox=[x1, y1, x2 - x1, y2 - y1])
                 for label, (x1, y1, x2, y2), mask in zip(info["labels"], info["bboxes"],
                                                          info["masks"])]
        changed, new = self._package.get_new_data(given, img.astype(np.uint8), self.cfg,
                                                  background=None)
        boxes, labels, masks = [], [], []
        for ann in changed:
            x, y, w, h = ann["bbox"]
            if w > 0 and h > 0:
                boxes.append([x, y, x + w, y + h])
                labels.append(ann["category_id"])
                masks.append(ann["segmentation"])
        info["bboxes"] = np.array(boxes, dtype=np.float32).reshape(-1, 4)
        info["labels"] = np.array(labels, dtype=np.int64)
        info["masks"] = masks
        results["img"] = new.astype(img.dtype)
        return results
