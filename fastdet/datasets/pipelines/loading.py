"""Images, annotations and proposals out of files."""

from __future__ import annotations

import os.path as osp
from typing import Any

import numpy as np

from fastdet.core.evaluation.panoptic_utils import rgb2id
from fastdet.core.mask import BitmapMasks, PolygonMasks
from fastdet.core.mask.geometry import coco_mask
from fastdet.mmcv.fileio import FileClient
from fastdet.mmcv.image import imfrombytes

from ..builder import PIPELINES
from .base import Results, Transform

__all__ = ["FilterAnnotations", "LoadAnnotations", "LoadImageFromFile", "LoadImageFromWebcam",
           "LoadMultiChannelImageFromFiles", "LoadPanopticAnnotations", "LoadProposals"]

_DISK = dict(backend="disk")


class _Reader(Transform):
    """Reads files with a client that is made when the first file is read."""

    file_client_args: dict[str, Any]
    file_client: FileClient | None = None

    def _image(self, path: str, flag: str, channel_order: str = "bgr") -> np.ndarray:
        """Decode a file; an error names it."""
        if self.file_client is None:
            self.file_client = FileClient(**self.file_client_args)
        content = self.file_client.get(path)
        try:
            return imfrombytes(content, flag=flag, channel_order=channel_order)
        except (OSError, ValueError) as e:
            raise ValueError(f"cannot read the image {path}: {e}") from e


def _joined(prefix: str | None, name: str) -> str:
    return name if prefix is None else osp.join(prefix, name)


@PIPELINES.register_module()
class LoadImageFromFile(_Reader):
    """Read ``img_info['filename']``, below ``img_prefix`` where there is one.

    Sets ``filename``, ``ori_filename``, ``img``, ``img_shape``, ``ori_shape``, ``img_fields``.

    Args:
        to_float32: of what the file holds.
        color_type: see :func:`fastdet.mmcv.image.imfrombytes`.
        channel_order: ``'bgr'`` or ``'rgb'``.
        file_client_args: see :class:`fastdet.mmcv.fileio.FileClient`.
    """

    def __init__(self, to_float32: bool = False, color_type: str = "color",
                 channel_order: str = "bgr", file_client_args: dict[str, Any] = _DISK) -> None:
        self.to_float32 = to_float32
        self.color_type = color_type
        self.channel_order = channel_order
        self.file_client_args = dict(file_client_args)

    def __call__(self, results: Results) -> Results | None:
        name = results["img_info"]["filename"]
        path = _joined(results["img_prefix"], name)
        return self._put(results, self._image(path, self.color_type, self.channel_order), path,
                         name)

    def _put(self, results: Results, img: np.ndarray, path: Any, name: Any) -> Results:
        if self.to_float32:
            img = img.astype(np.float32)
        results.update(filename=path, ori_filename=name, img=img, img_shape=img.shape,
                       ori_shape=img.shape, img_fields=["img"])
        return results


@PIPELINES.register_module()
class LoadImageFromWebcam(LoadImageFromFile):
    """:class:`LoadImageFromFile` of the array that is in ``img`` already."""

    def __call__(self, results: Results) -> Results:
        return self._put(results, results["img"], None, None)


@PIPELINES.register_module()
class LoadMultiChannelImageFromFiles(_Reader):
    """Read a channel from each of the files in ``img_info['filename']``.

    Args:
        to_float32, color_type, file_client_args: see :class:`LoadImageFromFile`.
    """

    def __init__(self, to_float32: bool = False, color_type: str = "unchanged",
                 file_client_args: dict[str, Any] = _DISK) -> None:
        self.to_float32 = to_float32
        self.color_type = color_type
        self.file_client_args = dict(file_client_args)

    def __call__(self, results: Results) -> Results:
        names = results["img_info"]["filename"]
        paths = [_joined(results["img_prefix"], name) for name in names]
        img = np.stack([self._image(path, self.color_type) for path in paths], axis=-1)
        if self.to_float32:
            img = img.astype(np.float32)
        channels = 1 if img.ndim < 3 else img.shape[2]
        results.update(filename=paths, ori_filename=names, img=img, img_shape=img.shape,
                       ori_shape=img.shape, pad_shape=img.shape, scale_factor=1.0,
                       img_norm_cfg=dict(mean=np.zeros(channels, dtype=np.float32),
                                         std=np.ones(channels, dtype=np.float32), to_rgb=False))
        return results


@PIPELINES.register_module()
class LoadAnnotations(_Reader):
    """Take annotations out of ``ann_info``.

    Sets, as asked, ``gt_bboxes`` and ``gt_bboxes_ignore`` [n, 4], ``gt_labels`` [n], ``gt_masks``,
    ``gt_semantic_seg`` [H, W].

    Args:
        with_bbox, with_label, with_mask, with_seg: what is taken.
        poly2mask: masks as bitmaps rather than as polygons.
        denorm_bbox: boxes are in parts of the image's sides.
        file_client_args: see :class:`LoadImageFromFile`; semantic maps are files.
    """

    def __init__(self, with_bbox: bool = True, with_label: bool = True, with_mask: bool = False,
                 with_seg: bool = False, poly2mask: bool = True, denorm_bbox: bool = False,
                 file_client_args: dict[str, Any] = _DISK) -> None:
        self.with_bbox = with_bbox
        self.with_label = with_label
        self.with_mask = with_mask
        self.with_seg = with_seg
        self.poly2mask = poly2mask
        self.denorm_bbox = denorm_bbox
        self.file_client_args = dict(file_client_args)

    def __call__(self, results: Results) -> Results | None:
        if self.with_bbox:
            self._load_bboxes(results)
        if self.with_label:
            results["gt_labels"] = results["ann_info"]["labels"].copy()
        if self.with_mask:
            self._load_masks(results)
        if self.with_seg:
            self._load_semantic_seg(results)
        return results

    def _load_bboxes(self, results: Results) -> None:
        ann = results["ann_info"]
        boxes = ann["bboxes"].copy()
        if self.denorm_bbox:
            h, w = results["img_shape"][:2]
            if len(boxes):
                boxes[:, 0::2] *= w
                boxes[:, 1::2] *= h
            boxes = boxes.astype(np.float32)
        results["gt_bboxes"] = boxes
        if ann.get("bboxes_ignore") is not None:
            results["gt_bboxes_ignore"] = ann["bboxes_ignore"].copy()
            results["bbox_fields"].append("gt_bboxes_ignore")
        results["bbox_fields"].append("gt_bboxes")
        if ann.get("gt_is_group_ofs") is not None:
            results["gt_is_group_ofs"] = ann["gt_is_group_ofs"].copy()

    def _load_masks(self, results: Results) -> None:
        h, w = results["img_info"]["height"], results["img_info"]["width"]
        masks = results["ann_info"]["masks"]
        if self.poly2mask:
            results["gt_masks"] = BitmapMasks([self._bitmap(m, h, w) for m in masks], h, w)
        else:
            results["gt_masks"] = PolygonMasks([self.process_polygons(m) for m in masks], h, w)
        results["mask_fields"].append("gt_masks")

    @staticmethod
    def _bitmap(annotation: Any, h: int, w: int) -> np.ndarray:
        """[H, W] of 0 and 1, from polygons or a run-length code."""
        if isinstance(annotation, list):  # parts of one object
            code = coco_mask().merge(coco_mask().frPyObjects(annotation, h, w))
        elif isinstance(annotation["counts"], list):
            code = coco_mask().frPyObjects(annotation, h, w)
        else:
            code = annotation
        return coco_mask().decode(code)

    def process_polygons(self, polygons: list[Any]) -> list[np.ndarray]:
        """Polygons as arrays, those with three points or more."""
        arrays = [np.array(p) for p in polygons]
        return [p for p in arrays if len(p) % 2 == 0 and len(p) >= 6]

    def _load_semantic_seg(self, results: Results) -> None:
        path = osp.join(results["seg_prefix"], results["ann_info"]["seg_map"])
        results["gt_semantic_seg"] = self._image(path, "unchanged").squeeze()
        results["seg_fields"].append("gt_semantic_seg")


@PIPELINES.register_module()
class LoadPanopticAnnotations(LoadAnnotations):
    """:class:`LoadAnnotations` with masks and semantic map out of a panoptic PNG.

    Args:
        with_bbox, with_label, with_mask, with_seg, file_client_args: see there.
    """

    def __init__(self, with_bbox: bool = True, with_label: bool = True, with_mask: bool = True,
                 with_seg: bool = True, file_client_args: dict[str, Any] = _DISK) -> None:
        super().__init__(with_bbox=with_bbox, with_label=with_label, with_mask=with_mask,
                         with_seg=with_seg, poly2mask=True, denorm_bbox=False,
                         file_client_args=file_client_args)

    def __call__(self, results: Results) -> Results | None:
        if self.with_bbox:
            self._load_bboxes(results)
        if self.with_label:
            results["gt_labels"] = results["ann_info"]["labels"].copy()
        if self.with_mask or self.with_seg:  # both are in one file
            self._load_panoptic(results)
        return results

    def _load_panoptic(self, results: Results) -> None:
        path = osp.join(results["seg_prefix"], results["ann_info"]["seg_map"])
        ids = rgb2id(self._image(path, "color", "rgb").squeeze())
        semantic = np.full_like(ids, 255)
        things = []
        for segment in results["ann_info"]["masks"]:
            here = ids == segment["id"]
            semantic = np.where(here, segment["category"], semantic)
            if segment["is_thing"]:
                things.append(here.astype(np.uint8))
        if self.with_mask:
            h, w = results["img_info"]["height"], results["img_info"]["width"]
            results["gt_masks"] = BitmapMasks(things, h, w)
            results["mask_fields"].append("gt_masks")
        if self.with_seg:
            results["gt_semantic_seg"] = semantic
            results["seg_fields"].append("gt_semantic_seg")


@PIPELINES.register_module()
class LoadProposals(Transform):
    """Put the boxes of ``proposals`` [n, 4 or 5] in the place of these, without scores.

    Args:
        num_max_proposals: the first so many.

    Raises:
        ValueError: proposals have another shape.
    """

    def __init__(self, num_max_proposals: int | None = None) -> None:
        self.num_max_proposals = num_max_proposals

    def __call__(self, results: Results) -> Results:
        proposals = results["proposals"]
        if proposals.ndim != 2 or proposals.shape[1] not in (4, 5):
            raise ValueError(f"proposals must be [n, 4] or [n, 5], got {proposals.shape}")
        proposals = proposals[:self.num_max_proposals, :4]
        if not len(proposals):
            proposals = np.zeros((1, 4), dtype=np.float32)
        results["proposals"] = proposals
        results["bbox_fields"].append("proposals")
        return results


@PIPELINES.register_module()
class FilterAnnotations(Transform):
    """Leave out objects that are too small.

    Args:
        min_gt_bbox_wh: width and height that a box must exceed.
        min_gt_mask_area: least pixels of a mask.
        by_box: judge by the box.
        by_mask: judge by the mask.
        keep_empty: drop an image that has no object left; it is kept where this is false.
    """

    def __init__(self, min_gt_bbox_wh: tuple[float, float] = (1.0, 1.0),
                 min_gt_mask_area: int = 1, by_box: bool = True, by_mask: bool = False,
                 keep_empty: bool = True) -> None:
        if not (by_box or by_mask):
            raise ValueError("FilterAnnotations: one of by_box and by_mask must be true")
        self.min_gt_bbox_wh = min_gt_bbox_wh
        self.min_gt_mask_area = min_gt_mask_area
        self.by_box = by_box
        self.by_mask = by_mask
        self.keep_empty = keep_empty

    def __call__(self, results: Results) -> Results | None:
        boxes = results["gt_bboxes"] if self.by_box else None
        count = len(boxes) if boxes is not None else len(results["gt_masks"])
        if not count:
            return results
        keep = np.ones(count, bool)
        if boxes is not None:
            w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
            keep &= (w > self.min_gt_bbox_wh[0]) & (h > self.min_gt_bbox_wh[1])
        if self.by_mask:
            keep &= results["gt_masks"].areas >= self.min_gt_mask_area
        rows = np.flatnonzero(keep)
        for key in ("gt_bboxes", "gt_labels", "gt_masks"):
            if key in results:
                results[key] = results[key][rows]
        return None if self.keep_empty and not len(rows) else results
