"""Data sets with an XML file of annotations for each image, as Pascal VOC has them."""

from __future__ import annotations

import os.path as osp
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np

from fastdet.mmcv.fileio import list_from_file
from fastdet.mmcv.image import imread

from .builder import DATASETS
from .custom import CustomDataset

__all__ = ["XMLDataset"]


@DATASETS.register_module()
class XMLDataset(CustomDataset):
    """A list of image ids, and for each an XML file.

    Args:
        min_size: objects smaller than this are ignored.
        img_subdir: the folder of the images in ``img_prefix``.
        ann_subdir: the folder of the XML files.
        kwargs: of :class:`CustomDataset`.
    """

    def __init__(self, min_size: int | None = None, img_subdir: str = "JPEGImages",
                 ann_subdir: str = "Annotations", **kwargs: Any) -> None:
        if not (self.CLASSES or kwargs.get("classes")):
            raise ValueError(f"{type(self).__name__} needs classes=, the names of its classes")
        self.img_subdir = img_subdir
        self.ann_subdir = ann_subdir
        super().__init__(**kwargs)
        self.cat2label = {name: i for i, name in enumerate(self.CLASSES)}
        self.min_size = min_size

    def _xml(self, img_id: str) -> Any:
        path = osp.join(self.img_prefix, self.ann_subdir, f"{img_id}.xml")
        try:
            return ET.parse(path).getroot()
        except ET.ParseError as e:
            raise ValueError(f"{path} is no XML file that can be read: {e}") from None

    def _info(self, img_id: str, filename: str, root: Any) -> dict[str, Any]:
        size = root.find("size")
        if size is not None:
            width, height = int(size.find("width").text), int(size.find("height").text)
        else:
            height, width = imread(osp.join(self.img_prefix, filename)).shape[:2]
        return dict(id=img_id, filename=filename, width=width, height=height)

    def load_annotations(self, ann_file: str) -> list[dict[str, Any]]:
        """Name and size of every image in the list."""
        return [self._info(i, osp.join(self.img_subdir, f"{i}.jpg"), self._xml(i))
                for i in list_from_file(ann_file)]

    def _filter_imgs(self, min_size: int = 32) -> list[int]:
        def holds_ours(info: dict[str, Any]) -> bool:
            names = (obj.find("name").text for obj in self._xml(info["id"]).findall("object"))
            return any(name in self.CLASSES for name in names)

        return [i for i, info in enumerate(self.data_infos)
                if min(info["width"], info["height"]) >= min_size
                and (not self.filter_empty_gt or holds_ours(info))]

    def get_ann_info(self, idx: int) -> dict[str, Any]:
        """Annotations of an image; difficult objects are ignored ones."""
        found: dict[bool, tuple[list[Any], list[int]]] = {False: ([], []), True: ([], [])}
        for obj in self._xml(self.data_infos[idx]["id"]).findall("object"):
            name = obj.find("name").text
            if name not in self.CLASSES:
                continue
            difficult = obj.find("difficult")
            corners = obj.find("bndbox")
            box = [int(float(corners.find(k).text)) for k in ("xmin", "ymin", "xmax", "ymax")]
            small = bool(self.min_size) and min(box[2] - box[0], box[3] - box[1]) < (
                self.min_size or 0)
            hard = difficult is not None and int(difficult.text) != 0
            boxes, labels = found[hard or small]
            boxes.append(box)
            labels.append(self.cat2label[name])
        arrays = {}
        for ignored, suffix in ((False, ""), (True, "_ignore")):
            boxes, labels = found[ignored]
            # VOC counts pixels from one.
            arrays[f"bboxes{suffix}"] = (np.array(boxes, ndmin=2) - 1 if boxes
                                         else np.zeros((0, 4))).astype(np.float32)
            arrays[f"labels{suffix}"] = np.array(labels).astype(np.int64)
        return arrays

    def get_cat_ids(self, idx: int) -> list[int]:
        """Classes of the objects of an image, difficult ones too."""
        objects = self._xml(self.data_infos[idx]["id"]).findall("object")
        names = [obj.find("name").text for obj in objects]
        return [self.cat2label[name] for name in names if name in self.CLASSES]
