"""Names of the classes of the data sets that MMDetection knows."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

__all__ = ["cityscapes_classes", "coco_classes", "data_set", "dataset_aliases", "get_classes",
           "imagenet_det_classes", "imagenet_vid_classes",
           "oid_challenge_classes", "oid_v6_classes", "voc_classes", "wider_face_classes"]

dataset_aliases = {
    "voc": ["voc", "pascal_voc", "voc07", "voc12"],
    "imagenet_det": ["det", "imagenet_det", "ilsvrc_det"],
    "imagenet_vid": ["vid", "imagenet_vid", "ilsvrc_vid"],
    "coco": ["coco", "mscoco", "ms_coco"],
    "wider_face": ["WIDERFaceDataset", "wider_face", "WIDERFace"],
    "cityscapes": ["cityscapes"],
    "oid_challenge": ["oid_challenge", "openimages_challenge"],
    "oid_v6": ["oid_v6", "openimages_v6"],
}


@functools.cache
def _all() -> dict[str, Any]:
    return json.loads((Path(__file__).parent / "classes.json").read_text(encoding="utf-8"))


def data_set(name: str, what: str = "classes") -> Any:
    """``'classes'``, ``'thing_classes'``, ``'stuff_classes'``, a tuple of names, or ``'palette'``,
    a list of colours, of a data set."""
    values = _all()[name][what]
    return [tuple(v) for v in values] if what == "palette" else tuple(values)


def voc_classes() -> list[str]:
    """The 20 classes of Pascal VOC."""
    return list(data_set("voc"))


def coco_classes() -> list[str]:
    """The 80 classes of COCO, underscores in place of blanks."""
    return [name.replace(" ", "_") for name in data_set("coco")]


def cityscapes_classes() -> list[str]:
    """The 8 classes of Cityscapes that have instances."""
    return list(data_set("cityscapes"))


def wider_face_classes() -> list[str]:
    """The one class of WIDER FACE."""
    return list(data_set("wider_face"))


def imagenet_det_classes() -> list[str]:
    """The 200 classes of ImageNet's detection."""
    return list(data_set("imagenet_det"))


def imagenet_vid_classes() -> list[str]:
    """The 30 classes of ImageNet's videos."""
    return list(data_set("imagenet_vid"))


def oid_challenge_classes() -> list[str]:
    """The 500 classes of the Open Images challenge of 2019."""
    return list(data_set("oid_challenge"))


def oid_v6_classes() -> list[str]:
    """The 601 classes of Open Images V6."""
    return list(data_set("oid_v6"))


def get_classes(dataset: str) -> list[str]:
    """The classes of a data set by one of its names.

    Raises:
        ValueError: no data set has that name.
        TypeError: ``dataset`` is no string.
    """
    if not isinstance(dataset, str):
        raise TypeError(f"dataset must be a name, got {type(dataset).__name__}")
    for name, aliases in dataset_aliases.items():
        if dataset in aliases:
            return globals()[f"{name}_classes"]()
    known = ", ".join(a for aliases in dataset_aliases.values() for a in aliases)
    raise ValueError(f"unknown data set {dataset!r}, known are {known}")
