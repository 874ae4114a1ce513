"""WIDER FACE."""

from __future__ import annotations

import os.path as osp
from typing import Any

from fastdet.core.evaluation.class_names import data_set
from fastdet.mmcv.fileio import list_from_file

from .builder import DATASETS
from .xml_style import XMLDataset

__all__ = ["WIDERFaceDataset"]


@DATASETS.register_module()
class WIDERFaceDataset(XMLDataset):
    """WIDER FACE (Yang et al., arXiv:1511.06523), its annotations converted to VOC's format."""

    CLASSES = data_set("wider_face")
    PALETTE = data_set("wider_face", "palette")

    def load_annotations(self, ann_file: str) -> list[dict[str, Any]]:
        """Name and size of every image; the XML file names the folder that it is in."""
        infos = []
        for img_id in list_from_file(ann_file):
            root = self._xml(img_id)
            infos.append(self._info(img_id, osp.join(root.find("folder").text, f"{img_id}.jpg"),
                                    root))
        return infos
