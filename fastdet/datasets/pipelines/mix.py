"""Several images in one, and affine changes of it: YOLOX's augmentation, CopyPaste."""
# ruff: noqa: NPY002 -- the global stream of numpy.random is the one that MMDetection draws from

from __future__ import annotations

import copy
import math
from typing import Any

import cv2
import numpy as np
from numpy import random

from fastdet.core.mask import BitmapMasks
from fastdet.mmcv.image import imresize

from ..builder import PIPELINES
from .base import Results, Transform, inside, sides

__all__ = ["CopyPaste", "MixUp", "Mosaic", "RandomAffine"]

Box = tuple[int, int, int, int]


def _clip(boxes: np.ndarray, height: float, width: float) -> None:
    boxes[:, 0::2] = np.clip(boxes[:, 0::2], 0, width)
    boxes[:, 1::2] = np.clip(boxes[:, 1::2], 0, height)


def _still_whole(before: np.ndarray, after: np.ndarray, side: float, area: float,
                 aspect: float) -> np.ndarray:
    """Which boxes have kept enough of their area, and are neither small nor drawn out."""
    w0, h0 = sides(before)
    w1, h1 = sides(after)
    ratio = np.maximum(w1 / (h1 + 1e-16), h1 / (w1 + 1e-16))
    return ((w1 > side) & (h1 > side) & (w1 * h1 / (w0 * h0 + 1e-16) > area)
            & (ratio < aspect))


@PIPELINES.register_module()
class Mosaic(Transform):
    """Four images around a random point of a canvas twice as large (YOLOv4, arXiv:2004.10934).

    Needs three more images in ``mix_results``.

    Args:
        img_scale: (height, width) of one image.
        center_ratio_range: where the point is, in parts of ``img_scale``.
        min_bbox_size: smaller boxes are dropped, unless ``skip_filter``.
        bbox_clip_border: clip boxes to the canvas.
        skip_filter: keep small boxes.
        pad_val: the canvas's colour.
        prob: the chance.
    """

    def __init__(self, img_scale: tuple[int, int] = (640, 640),
                 center_ratio_range: tuple[float, float] = (0.5, 1.5), min_bbox_size: float = 0,
                 bbox_clip_border: bool = True, skip_filter: bool = True, pad_val: Any = 114,
                 prob: float = 1.0) -> None:
        if not isinstance(img_scale, tuple):
            raise TypeError(f"img_scale must be a tuple (height, width), got {img_scale!r}")
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must be from 0 to 1, got {prob}")
        self.img_scale = img_scale
        self.center_ratio_range = center_ratio_range
        self.min_bbox_size = min_bbox_size
        self.bbox_clip_border = bbox_clip_border
        self.skip_filter = skip_filter
        self.pad_val = pad_val
        self.prob = prob

    def get_indexes(self, dataset: Any) -> list[int]:
        """Three more images of the data set."""
        return [random.randint(0, len(dataset)) for _ in range(3)]

    def __call__(self, results: Results) -> Results:
        if random.uniform(0, 1) > self.prob:
            return results
        if len(results["mix_results"]) != 3:
            raise ValueError(f"Mosaic needs 3 more images, got {len(results['mix_results'])}")
        h, w = self.img_scale
        img = results["img"]
        canvas = np.full((int(h * 2), int(w * 2), *img.shape[2:]), self.pad_val, dtype=img.dtype)
        cx = int(random.uniform(*self.center_ratio_range) * w)
        cy = int(random.uniform(*self.center_ratio_range) * h)
        boxes, labels = [], []
        for i, part in enumerate([results, *results["mix_results"]]):
            own_h, own_w = part["img"].shape[:2]
            ratio = min(h / own_h, w / own_w)
            own = imresize(part["img"], (int(own_w * ratio), int(own_h * ratio)))
            to, of = self._places(i, cx, cy, own.shape[1], own.shape[0])
            canvas[to[1]:to[3], to[0]:to[2]] = own[of[1]:of[3], of[0]:of[2]]
            moved = part["gt_bboxes"].copy()
            if len(moved):
                moved[:, 0::2] = ratio * moved[:, 0::2] + (to[0] - of[0])
                moved[:, 1::2] = ratio * moved[:, 1::2] + (to[1] - of[1])
            boxes.append(moved)
            labels.append(part["gt_labels"])
        all_boxes, all_labels = np.concatenate(boxes, 0), np.concatenate(labels, 0)
        if self.bbox_clip_border:
            _clip(all_boxes, 2 * h, 2 * w)
        if not self.skip_filter:
            wide, high = sides(all_boxes)
            keep = (wide > self.min_bbox_size) & (high > self.min_bbox_size)
            all_boxes, all_labels = all_boxes[keep], all_labels[keep]
        keep = inside(all_boxes, 2 * h, 2 * w)
        results.update(img=canvas, img_shape=canvas.shape, gt_bboxes=all_boxes[keep],
                       gt_labels=all_labels[keep])
        return results

    def _places(self, which: int, cx: int, cy: int, w: int, h: int) -> tuple[Box, Box]:
        """Where on the canvas an image goes, and which part of it.

        Images lie around the point: top left, top right, bottom left, bottom right.
        """
        right, below = which % 2, which // 2
        x1, x2 = (cx, min(cx + w, self.img_scale[1] * 2)) if right else (max(cx - w, 0), cx)
        y1, y2 = (cy, min(cy + h, self.img_scale[0] * 2)) if below else (max(cy - h, 0), cy)
        from_x = 0 if right else w - (x2 - x1)
        from_y = 0 if below else h - (y2 - y1)
        return (x1, y1, x2, y2), (from_x, from_y, from_x + x2 - x1, from_y + y2 - y1)


@PIPELINES.register_module()
class MixUp(Transform):
    """The mean of an image and another one (Zhang et al., arXiv:1710.09412; YOLOX's form).

    Needs one more image in ``mix_results``.

    Args:
        img_scale: (height, width) of the other image before it is scaled.
        ratio_range: by which factors it is scaled.
        flip_ratio: the chance that it is mirrored.
        pad_val: what it is padded with.
        max_iters: how often an image with boxes is looked for.
        min_bbox_size, min_area_ratio, max_aspect_ratio: what boxes keep, unless ``skip_filter``.
        bbox_clip_border: clip boxes.
        skip_filter: keep all boxes.
    """

    def __init__(self, img_scale: tuple[int, int] = (640, 640),
                 ratio_range: tuple[float, float] = (0.5, 1.5), flip_ratio: float = 0.5,
                 pad_val: Any = 114, max_iters: int = 15, min_bbox_size: float = 5,
                 min_area_ratio: float = 0.2, max_aspect_ratio: float = 20,
                 bbox_clip_border: bool = True, skip_filter: bool = True) -> None:
        if not isinstance(img_scale, tuple):
            raise TypeError(f"img_scale must be a tuple (height, width), got {img_scale!r}")
        self.dynamic_scale = img_scale
        self.ratio_range = ratio_range
        self.flip_ratio = flip_ratio
        self.pad_val = pad_val
        self.max_iters = max_iters
        self.min_bbox_size = min_bbox_size
        self.min_area_ratio = min_area_ratio
        self.max_aspect_ratio = max_aspect_ratio
        self.bbox_clip_border = bbox_clip_border
        self.skip_filter = skip_filter

    def get_indexes(self, dataset: Any) -> int:
        """Another image of the data set, one with boxes if one is found soon."""
        for _ in range(self.max_iters):
            index = random.randint(0, len(dataset))
            if len(dataset.get_ann_info(index)["bboxes"]):
                break
        return index

    def __call__(self, results: Results) -> Results:
        if len(results["mix_results"]) != 1:
            raise ValueError(f"MixUp needs 1 more image, got {len(results['mix_results'])}")
        other = results["mix_results"][0]
        if not len(other["gt_bboxes"]):
            return results
        img = other["img"]
        jitter = random.uniform(*self.ratio_range)
        flip = random.uniform(0, 1) < self.flip_ratio
        height, width = self.dynamic_scale
        padded = np.full((height, width, *img.shape[2:]), self.pad_val, dtype=img.dtype)
        ratio = min(height / img.shape[0], width / img.shape[1])
        small = imresize(img, (int(img.shape[1] * ratio), int(img.shape[0] * ratio)))
        padded[:small.shape[0], :small.shape[1]] = small
        ratio *= jitter
        padded = imresize(padded, (int(width * jitter), int(height * jitter)))
        if flip:
            padded = padded[:, ::-1, :]

        ori = results["img"]
        own_h, own_w = padded.shape[:2]
        h, w = ori.shape[:2]
        canvas = np.zeros((max(own_h, h), max(own_w, w), 3), dtype=np.uint8)
        canvas[:own_h, :own_w] = padded
        dy = random.randint(0, canvas.shape[0] - h) if canvas.shape[0] > h else 0
        dx = random.randint(0, canvas.shape[1] - w) if canvas.shape[1] > w else 0
        part = canvas[dy:dy + h, dx:dx + w]

        boxes = other["gt_bboxes"].copy()
        boxes[:, 0::2] = boxes[:, 0::2] * ratio
        boxes[:, 1::2] = boxes[:, 1::2] * ratio
        if self.bbox_clip_border:
            _clip(boxes, own_h, own_w)
        if flip:
            boxes[:, 0::2] = own_w - boxes[:, 0::2][:, ::-1]
        cropped = boxes.copy()
        cropped[:, 0::2] = cropped[:, 0::2] - dx
        cropped[:, 1::2] = cropped[:, 1::2] - dy
        if self.bbox_clip_border:
            _clip(cropped, h, w)
        labels = other["gt_labels"]
        if not self.skip_filter:
            keep = _still_whole(boxes, cropped, self.min_bbox_size, self.min_area_ratio,
                                self.max_aspect_ratio)
            cropped, labels = cropped[keep], labels[keep]
        all_boxes = np.concatenate((results["gt_bboxes"], cropped), axis=0)
        all_labels = np.concatenate((results["gt_labels"], labels), axis=0)
        keep = inside(all_boxes, h, w)
        mixed = (0.5 * ori.astype(np.float32) + 0.5 * part.astype(np.float32)).astype(np.uint8)
        results.update(img=mixed, img_shape=mixed.shape, gt_bboxes=all_boxes[keep],
                       gt_labels=all_labels[keep])
        return results


@PIPELINES.register_module()
class RandomAffine(Transform):
    """Rotate, scale, shear and shift at once (YOLOX, arXiv:2107.08430).

    Args:
        max_rotate_degree: either way.
        max_translate_ratio: of the sides, either way.
        scaling_ratio_range: factors.
        max_shear_degree: either way, of both axes.
        border: (height, width) added on each side; negative to cut off.
        border_val: the colour outside the image.
        min_bbox_size, min_area_ratio, max_aspect_ratio: what boxes keep, unless ``skip_filter``.
        bbox_clip_border: clip boxes.
        skip_filter: keep all boxes that are inside.
    """

    def __init__(self, max_rotate_degree: float = 10.0, max_translate_ratio: float = 0.1,
                 scaling_ratio_range: tuple[float, float] = (0.5, 1.5),
                 max_shear_degree: float = 2.0, border: tuple[int, int] = (0, 0),
                 border_val: Any = (114, 114, 114), min_bbox_size: float = 2,
                 min_area_ratio: float = 0.2, max_aspect_ratio: float = 20,
                 bbox_clip_border: bool = True, skip_filter: bool = True) -> None:
        if not 0 <= max_translate_ratio <= 1:
            raise ValueError(f"max_translate_ratio must be from 0 to 1, got {max_translate_ratio}")
        if not 0 < scaling_ratio_range[0] <= scaling_ratio_range[1]:
            raise ValueError("scaling_ratio_range must be (least, greatest), got "
                             f"{scaling_ratio_range}")
        self.max_rotate_degree = max_rotate_degree
        self.max_translate_ratio = max_translate_ratio
        self.scaling_ratio_range = scaling_ratio_range
        self.max_shear_degree = max_shear_degree
        self.border = border
        self.border_val = border_val
        self.min_bbox_size = min_bbox_size
        self.min_area_ratio = min_area_ratio
        self.max_aspect_ratio = max_aspect_ratio
        self.bbox_clip_border = bbox_clip_border
        self.skip_filter = skip_filter

    def _draw(self, height: int, width: int) -> tuple[np.ndarray, float]:
        """The matrix [3, 3] and its scale."""
        angle = math.radians(random.uniform(-self.max_rotate_degree, self.max_rotate_degree))
        scale = random.uniform(*self.scaling_ratio_range)
        shear_x, shear_y = (math.radians(
            random.uniform(-self.max_shear_degree, self.max_shear_degree)) for _ in range(2))
        shift_x, shift_y = (
            random.uniform(-self.max_translate_ratio, self.max_translate_ratio) * side
            for side in (width, height))
        cos, sin = np.cos(angle), np.sin(angle)
        rotate = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]], dtype=np.float32)
        zoom = np.array([[scale, 0, 0], [0, scale, 0], [0, 0, 1]], dtype=np.float32)
        shear = np.array([[1, np.tan(shear_x), 0], [np.tan(shear_y), 1, 0], [0, 0, 1]],
                         dtype=np.float32)
        shift = np.array([[1, 0, shift_x], [0, 1, shift_y], [0, 0, 1]], dtype=np.float32)
        return shift @ shear @ rotate @ zoom, scale

    def __call__(self, results: Results) -> Results:
        img = results["img"]
        height = img.shape[0] + self.border[0] * 2
        width = img.shape[1] + self.border[1] * 2
        matrix, scale = self._draw(height, width)
        img = cv2.warpPerspective(img, matrix, dsize=(width, height), borderValue=self.border_val)
        results["img"], results["img_shape"] = img, img.shape
        for key in results.get("bbox_fields", []):
            boxes = results[key]
            if not len(boxes):
                continue
            warped = self._warp(boxes, matrix)
            if self.bbox_clip_border:
                _clip(warped, height, width)
            keep = inside(warped, height, width)
            if not self.skip_filter:
                keep &= self.filter_gt_bboxes(boxes * scale, warped)
            results[key] = warped[keep]
            if key == "gt_bboxes":
                if "gt_labels" in results:
                    results["gt_labels"] = results["gt_labels"][keep]
                if "gt_masks" in results:
                    raise ValueError("RandomAffine only supports boxes, got gt_masks")
        return results

    @staticmethod
    def _warp(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """The boxes around the corners' new places."""
        xs = boxes[:, [0, 0, 2, 2]].reshape(-1)
        ys = boxes[:, [1, 3, 3, 1]].reshape(-1)
        points = matrix @ np.vstack([xs, ys, np.ones_like(xs)])
        points = points[:2] / points[2]
        xs, ys = points[0].reshape(len(boxes), 4), points[1].reshape(len(boxes), 4)
        return np.vstack((xs.min(1), ys.min(1), xs.max(1), ys.max(1))).T

    def filter_gt_bboxes(self, origin_bboxes: np.ndarray,
                         wrapped_bboxes: np.ndarray) -> np.ndarray:
        """Which boxes have kept enough of themselves."""
        return _still_whole(origin_bboxes, wrapped_bboxes, self.min_bbox_size,
                            self.min_area_ratio, self.max_aspect_ratio)


@PIPELINES.register_module()
class CopyPaste(Transform):
    """Objects of another image on top (Ghiasi et al., arXiv:2012.07177).

    Needs one more image of the same size in ``mix_results``. Without masks boxes are pasted.

    Args:
        max_num_pasted: at most so many objects.
        bbox_occluded_thr: a covered object stays where no side of its box moves further, in
            pixels;
        mask_occluded_thr: or where more pixels of it are left.
        selected: draw objects; else paste all.
    """

    def __init__(self, max_num_pasted: int = 100, bbox_occluded_thr: float = 10,
                 mask_occluded_thr: float = 300, selected: bool = True) -> None:
        self.max_num_pasted = max_num_pasted
        self.bbox_occluded_thr = bbox_occluded_thr
        self.mask_occluded_thr = mask_occluded_thr
        self.selected = selected

    def get_indexes(self, dataset: Any) -> int:
        """Another image of the data set."""
        return random.randint(0, len(dataset))

    def gen_masks_from_bboxes(self, bboxes: np.ndarray,
                              img_shape: tuple[int, ...]) -> BitmapMasks:
        """Boxes as masks."""
        h, w = img_shape[:2]
        masks = np.zeros((len(bboxes), h, w), dtype=np.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, bboxes.astype(np.int64)):
            mask[y1:y2, x1:x2] = 1
        return BitmapMasks(masks, h, w)

    def get_gt_masks(self, results: Results) -> BitmapMasks:
        """The masks of an image, or its boxes as masks."""
        if "gt_masks" in results:
            return results["gt_masks"]
        return self.gen_masks_from_bboxes(results.get("gt_bboxes", []), results["img"].shape)

    def __call__(self, results: Results) -> Results:
        if len(results["mix_results"]) != 1:
            raise ValueError(f"CopyPaste needs 1 more image, got {len(results['mix_results'])}")
        other = copy.copy(results["mix_results"][0])
        other["gt_masks"] = self.get_gt_masks(other)
        if self.selected:
            count = len(other["gt_bboxes"])
            pasted = random.randint(0, min(count + 1, self.max_num_pasted))
            rows = random.choice(count, size=pasted, replace=False)
            for key in ("gt_bboxes", "gt_labels", "gt_masks"):
                other[key] = other[key][rows]
        return self._copy_paste(results, other)

    def get_updated_masks(self, masks: BitmapMasks, composed_mask: np.ndarray) -> BitmapMasks:
        """What is left of masks under others."""
        if masks.masks.shape[-2:] != composed_mask.shape[-2:]:
            raise ValueError(f"CopyPaste needs images of one size, got masks "
                             f"{list(composed_mask.shape[-2:])} for "
                             f"{list(masks.masks.shape[-2:])}")
        masks.masks = np.where(composed_mask, 0, masks.masks)
        return masks

    def _copy_paste(self, dst: Results, src: Results) -> Results:
        if not len(src["gt_bboxes"]):
            return dst
        masks = self.get_gt_masks(dst)
        pasted = src["gt_masks"].masks
        covered = np.where(np.any(pasted, axis=0), 1, 0)
        left = self.get_updated_masks(masks, covered)
        boxes = left.get_bboxes()
        if len(boxes) != len(left):
            raise ValueError(f"{len(left)} masks have {len(boxes)} boxes")
        near = np.all(np.abs(boxes - dst["gt_bboxes"]) <= self.bbox_occluded_thr, axis=-1)
        large = left.masks.sum(axis=(1, 2)) > self.mask_occluded_thr
        keep = near | large
        img = dst["img"] * (1 - covered[..., None]) + src["img"] * covered[..., None]
        dst["img"] = img
        dst["gt_bboxes"] = np.concatenate([boxes[keep], src["gt_bboxes"]])
        dst["gt_labels"] = np.concatenate([dst["gt_labels"][keep], src["gt_labels"]])
        if "gt_masks" in dst:
            dst["gt_masks"] = BitmapMasks(np.concatenate([left.masks[keep], pasted]), left.height,
                                          left.width)
        return dst
