"""pycocotools with names in lower case, as MMDetection calls it."""

from __future__ import annotations

import contextlib
import io
from collections import defaultdict
from typing import Any

try:
    from pycocotools.coco import COCO as _COCO
    from pycocotools.cocoeval import COCOeval
except ImportError as e:
    raise ImportError("COCO's annotations need pycocotools; install it with: "
                      "pip install pycocotools") from e

__all__ = ["COCO", "COCOPanoptic", "COCOeval", "read_coco"]


class COCO(_COCO):
    """The annotations of a data set in COCO's format; see :class:`pycocotools.coco.COCO`."""

    def __init__(self, annotation_file: Any = None) -> None:
        super().__init__(annotation_file=annotation_file)
        self.img_ann_map = self.imgToAnns
        self.cat_img_map = self.catToImgs

    def get_ann_ids(self, img_ids: Any = [], cat_ids: Any = [], area_rng: Any = [],
                    iscrowd: Any = None) -> list[int]:
        """Ids of annotations: of images, of classes, of areas in a range, of crowds."""
        return self.getAnnIds(img_ids, cat_ids, area_rng, iscrowd)

    def get_cat_ids(self, cat_names: Any = [], sup_names: Any = [],
                    cat_ids: Any = []) -> list[int]:
        """Ids of classes: by name, by the name of their group, by id."""
        return self.getCatIds(list(cat_names), list(sup_names), cat_ids)

    def get_img_ids(self, img_ids: Any = [], cat_ids: Any = []) -> list[int]:
        """Ids of images: by id, by the classes in them."""
        return self.getImgIds(img_ids, cat_ids)

    def load_anns(self, ids: Any) -> list[dict[str, Any]]:
        """Annotations by their ids."""
        return self.loadAnns(ids)

    def load_cats(self, ids: Any) -> list[dict[str, Any]]:
        """Classes by their ids."""
        return self.loadCats(ids)

    def load_imgs(self, ids: Any) -> list[dict[str, Any]]:
        """Images by their ids."""
        return self.loadImgs(ids)


class COCOPanoptic(COCO):
    """Annotations in COCO's panoptic format: segments in place of annotations.

    Ids of segments are unique in an image alone, so that ``anns`` has a list for each.
    """

    def createIndex(self) -> None:
        """Find images, classes and segments by their ids."""
        data = self.dataset
        self.imgs = {img["id"]: img for img in data.get("images", ())}
        self.cats = {cat["id"]: cat for cat in data.get("categories", ())}
        self.anns: dict[int, list[dict[str, Any]]] = defaultdict(list)
        self.imgToAnns: dict[int, list[dict[str, Any]]] = defaultdict(list)
        self.catToImgs: dict[int, list[int]] = defaultdict(list)
        for ann in data.get("annotations", ()):
            img = self.imgs[ann["image_id"]]
            img["segm_file"] = ann["file_name"]
            for segment in ann["segments_info"]:
                segment.update(image_id=img["id"], height=img["height"], width=img["width"])
                self.imgToAnns[img["id"]].append(segment)
                self.anns[segment["id"]].append(segment)
                self.catToImgs[segment["category_id"]].append(img["id"])

    def load_anns(self, ids: Any = []) -> list[dict[str, Any]]:
        """Segments by their ids, of all images that have such."""
        if isinstance(ids, int):
            return self.anns[ids]
        return [segment for i in ids for segment in self.anns[i]]


def read_coco(path: str, kind: type[Any] = COCO) -> Any:
    """Read annotations without pycocotools' remarks on how long it took.

    Raises:
        ValueError: the file, which is named, is not in COCO's format.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = kind(path)
        for key in ("images", "categories"):  # a test set has no annotations
            if not isinstance(coco.dataset.get(key), list):
                raise ValueError(f"it has no list {key!r}")
    except (ValueError, AssertionError, KeyError, TypeError) as e:
        raise ValueError(f"{path} is no annotation file in COCO's format: {e}") from e
    return coco
