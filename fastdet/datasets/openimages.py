"""Open Images: the data set and its challenge."""

from __future__ import annotations

import copy
import csv
import json
import os.path as osp
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch.distributed as dist

from fastdet.core.evaluation import eval_map
from fastdet.core.evaluation.report import say
from fastdet.mmcv.engine import collect_results_cpu
from fastdet.mmcv.fileio import FileClient, load
from fastdet.mmcv.runner import get_dist_info

from .builder import DATASETS
from .custom import CustomDataset

__all__ = ["OpenImagesChallengeDataset", "OpenImagesDataset"]

#: Columns of an annotation that say something of the box, and where :meth:`get_ann_info` has them.
_FLAGS = {"is_occludeds": 8, "is_truncateds": 9, "gt_is_group_ofs": 10, "is_depictions": 11,
          "is_insides": 12}


def _rows(file: str, header: bool = True) -> Iterator[list[str]]:
    """The rows of a CSV file, without its first where that is a ``header``."""
    with open(file, newline="", encoding="utf-8") as f:
        reader = csv.reader(f)
        if header:
            next(reader, None)
        yield from reader


def _base(name: str) -> str:
    return name.split("/")[-1]


@DATASETS.register_module()
class OpenImagesDataset(CustomDataset):
    """Open Images V4 to V6 (Kuznetsova et al., arXiv:1811.00982).

    Boxes are parts of the image's sides, since the annotations do not hold its size: training
    multiplies them out by ``LoadAnnotations(denorm_bbox=True)``, evaluation by sizes from
    ``meta_file`` or from the test pipeline. A class stands for its ancestors too.

    Args:
        ann_file: a CSV file, a box a row.
        label_file: a CSV file, for each class its label and its name.
        image_level_ann_file: a CSV file of labels that were verified for whole images.
        get_supercategory: a box, and a detection, also counts for the ancestors of its class.
        hierarchy_file: a JSON file, the tree of classes.
        get_metas: take the sizes of images for evaluation ...
        load_from_file: ... from ``meta_file``, rather than from the images as they are tested.
        meta_file: a pickle, of each image ``filename`` and ``ori_shape``.
        filter_labels: leave out detections of classes that were not verified for the image.
        load_image_level_labels: labels of whole images are verified ones too.
        file_client_args: see :class:`CustomDataset`.
        kwargs: of :class:`CustomDataset`; ``data_root`` is the folder of ``ann_file``,
            ``hierarchy_file``, ``meta_file`` and the images, and not of the other two files.

    Raises:
        ValueError: a file has another ending, or ``hierarchy_file`` is missing.
    """

    METRICS = ("mAP",)
    #: Ending of ``hierarchy_file``.
    _HIERARCHY = ".json"

    def __init__(self, ann_file: str, label_file: str = "", image_level_ann_file: str = "",
                 get_supercategory: bool = True, hierarchy_file: str | None = None,
                 get_metas: bool = True, load_from_file: bool = True, meta_file: str = "",
                 filter_labels: bool = True, load_image_level_labels: bool = True,
                 file_client_args: dict[str, Any] = dict(backend="disk"), **kwargs: Any) -> None:
        self.cat2label: dict[str, str] = defaultdict(str)
        self.index_dict: dict[str, int] = {}
        self.file_client_args = file_client_args
        self.file_client = FileClient(**file_client_args)
        self.label_file = label_file
        if not label_file.endswith("csv"):
            raise ValueError(f"label_file must be a .csv file, got {label_file!r}")
        with self.file_client.get_local_path(self.label_file) as path:
            names = self.get_classes_from_csv(str(path))
        # Annotations name classes by their labels, which only now are known.
        super().__init__(ann_file=ann_file, file_client_args=file_client_args, **kwargs)
        self.CLASSES = names
        self.image_level_ann_file = image_level_ann_file
        self.load_image_level_labels = load_image_level_labels
        if get_supercategory is True:
            if not str(hierarchy_file or "").endswith(self._HIERARCHY):
                raise ValueError(f"{type(self).__name__} with get_supercategory needs "
                                 f"hierarchy_file, a {self._HIERARCHY} file, got "
                                 f"{hierarchy_file!r}")
            self.class_label_tree = self.get_relation_matrix(str(hierarchy_file))
        else:  # a class stands for itself
            self.class_label_tree = np.eye(len(names))
        self.get_supercategory = get_supercategory
        self.get_metas = get_metas
        self.load_from_file = load_from_file
        self.load_from_pipeline = not load_from_file
        self.meta_file = self._below_root(meta_file)
        self.filter_labels = filter_labels
        self.rank, self.world_size = get_dist_info()
        self.temp_img_metas: list[Any] = []
        self.test_img_metas: list[Any] = []
        self.test_img_shapes: list[Any] = []

    def _below_root(self, path: str) -> str:
        return path if self.data_root is None else osp.join(self.data_root, path)

    def _index(self, label: str, file: str) -> int:
        if label not in self.index_dict:
            raise ValueError(f"{file} names the class {label!r}, which {self.label_file} has not")
        return self.index_dict[label]

    def get_classes_from_csv(self, label_file: str) -> list[str]:
        """Names of the classes, in the order of the file."""
        for label, name, *_ in _rows(label_file, header=False):
            self.index_dict[label] = len(self.index_dict)
            self.cat2label[label] = name
        return list(self.cat2label.values())

    def load_annotations(self, ann_file: str) -> list[dict[str, Any]]:
        """Name of every image; the boxes are in ``ann_infos`` by the image's id."""
        self.ann_infos: dict[str, list[dict[str, Any]]] = defaultdict(list)
        infos: list[dict[str, Any]] = []
        for row in _rows(ann_file):
            img_id = row[0]
            if not infos or infos[-1]["img_id"] != img_id:  # an image's rows stand together
                infos.append(dict(img_id=img_id, filename=f"{img_id}.jpg"))
            x1, x2, y1, y2 = (float(v) for v in row[4:8])
            flags = {name: int(row[i]) == 1 for name, i in _FLAGS.items()}
            self.ann_infos[img_id].append(dict(
                bbox=[x1, y1, x2, y2], label=self._index(row[2], ann_file), **flags))
        return infos

    def get_ann_info(self, idx: int) -> dict[str, Any]:
        """Annotations of an image: boxes in parts of its sides, and what they are flagged as."""
        objects = self.ann_infos[self.data_infos[idx]["img_id"]]
        boxes = np.array([o["bbox"] for o in objects], dtype=np.float32).reshape(-1, 4)
        return dict(bboxes=boxes, labels=np.array([o["label"] for o in objects], dtype=np.int64),
                    bboxes_ignore=np.zeros((0, 4), np.float32),
                    labels_ignore=np.zeros(0, np.int64),
                    **{name: np.array([o[name] for o in objects], dtype=bool)
                       for name in _FLAGS})

    def _image(self, idx: int) -> dict[str, Any]:
        """What is known of an image: the challenge has it beside the annotations."""
        info = self.data_infos[idx]
        return info.get("img_info", info)

    def get_meta_from_file(self, meta_file: str = "") -> None:
        """Take the sizes of all images from a file."""
        metas = load(meta_file)
        self._check_count(len(metas), f"{meta_file} has metas of")
        for i, meta in enumerate(metas):
            self._check_name(i, meta["filename"])
            self.test_img_shapes.append(meta["ori_shape"][:2])

    def get_meta_from_pipeline(self, results: dict[str, Any]) -> None:
        """Keep the meta of an image that is tested; of all processes, once all are through."""
        self.temp_img_metas.extend(results["img_metas"])
        if dist.is_available() and self.world_size > 1:
            self.test_img_metas = collect_results_cpu(self.temp_img_metas, len(self)) or []
        else:
            self.test_img_metas = self.temp_img_metas

    def get_img_shape(self, metas: list[Any]) -> None:
        """Take the sizes of all images from what the pipeline gave."""
        self._check_count(len(metas), "the pipeline gave metas of")
        for i, meta in enumerate(metas):
            self._check_name(i, meta.data["ori_filename"])
            self.test_img_shapes.append(meta.data["ori_shape"][:2])

    def _check_count(self, count: int, who: str) -> None:
        if count != len(self):
            raise ValueError(f"{who} {count} images, and the data set has {len(self)}")

    def _check_name(self, i: int, name: str) -> None:
        own = self._image(i)["filename"]
        if _base(name) != _base(own):
            raise ValueError(f"the meta of image {i} is of {name}, and the image is {own}")

    def prepare_train_img(self, idx: int) -> Any:
        """An image with annotations through the pipeline."""
        return self._prepared(idx, dict(ann_info=self.get_ann_info(idx)))

    def prepare_test_img(self, idx: int) -> Any:
        """An image through the pipeline; its meta is kept where evaluation needs it."""
        results = self._prepared(idx, {})
        if self.get_metas and self.load_from_pipeline:
            self.get_meta_from_pipeline(results)
        return results

    def _prepared(self, idx: int, extra: dict[str, Any]) -> Any:
        results = dict(img_info=self._image(idx), **extra)
        if self.proposals is not None:
            results["proposals"] = self.proposals[idx]
        self.pre_pipeline(results)
        return self.pipeline(results)

    def _filter_imgs(self, min_size: int = 32) -> list[int]:
        if self.filter_empty_gt:
            warnings.warn(f"{type(self).__name__} keeps images without objects: filter_empty_gt "
                          "has no effect", stacklevel=2)
        return list(range(len(self)))

    def _set_group_flag(self) -> None:
        """``flag``: one group, since the sizes are not known."""
        self.flag = np.zeros(len(self), dtype=np.uint8)

    def get_relation_matrix(self, hierarchy_file: str) -> np.ndarray:
        """[classes, classes]: 1 where the second is the first or an ancestor of it."""
        file = self._below_root(hierarchy_file)
        with open(file, encoding="utf-8") as f:
            tree = json.load(f)
        related = np.eye(len(self.CLASSES))
        nodes: list[tuple[Any, list[int]]] = [(tree, [])]
        while nodes:
            node, ancestors = nodes.pop()
            for child in node.get("Subcategory", ()):
                if "LabelName" in child:
                    own = self._index(child["LabelName"], file)
                    related[own, ancestors] = 1
                    nodes.append((child, [own, *ancestors]))
        return related

    def add_supercategory_ann(self, annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Annotations with each box once for its class and each of the ancestors."""
        for i, ann in enumerate(annotations):
            rows, labels = np.nonzero(self.class_label_tree[ann["labels"]])
            annotations[i] = dict(
                bboxes=ann["bboxes"][rows].astype(np.float32), labels=labels.astype(np.int64),
                bboxes_ignore=ann["bboxes_ignore"],
                gt_is_group_ofs=np.asarray(ann["gt_is_group_ofs"], bool)[rows])
        return annotations

    def process_results(self, det_results: list[list[np.ndarray]],
                        annotations: list[dict[str, Any]],
                        image_level_annotations: list[dict[str, Any]] | None = None
                        ) -> list[list[np.ndarray]]:
        """Results, in place, with detections added to ancestors of their class, and without those
        of classes that nobody verified for the image.

        Args:
            det_results: of each image and class, boxes with scores [n, 5].
            annotations: of each image.
            image_level_annotations: of each image, ``image_level_labels``.
        """
        levels = image_level_annotations
        for given in (annotations, annotations if levels is None else levels):
            if len(given) != len(det_results):
                raise ValueError(f"there are results of {len(det_results)} images and annotations "
                                 f"of {len(given)}")
        for i, result in enumerate(det_results):
            before = copy.copy(result)
            verified = annotations[i]["labels"] if levels is None else np.append(
                annotations[i]["labels"], levels[i]["image_level_labels"])
            allowed = {int(label) for label in verified}
            for label in [k for k, boxes in enumerate(before) if len(boxes)]:
                for ancestor in np.flatnonzero(self.class_label_tree[label]):
                    if ancestor not in allowed:
                        if self.filter_labels:
                            result[ancestor] = np.zeros((0, 5), np.float32)
                    elif ancestor != label and self.get_supercategory:
                        result[ancestor] = np.concatenate((result[ancestor], before[label]))
        return det_results

    def load_image_label_from_csv(self, image_level_ann_file: str
                                  ) -> dict[str, list[dict[str, Any]]]:
        """Labels of whole images, by their ids."""
        return self._image_labels(image_level_ann_file, label=2, confidence=3)

    def _image_labels(self, file: str, label: int, confidence: int
                      ) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in _rows(file):
            found[row[0]].append(dict(image_level_label=self._index(row[label], file),
                                      confidence=float(row[confidence])))
        return found

    def get_image_level_ann(self, image_level_ann_file: str) -> list[dict[str, Any]]:
        """Of each image ``image_level_labels`` and their ``confidences``."""
        with self.file_client.get_local_path(image_level_ann_file) as path:
            found = self.load_image_label_from_csv(str(path))
        annotations = []
        for i in range(len(self)):
            own = found.get(_base(self._image(i)["filename"])[:-4], [])
            annotations.append(dict(
                image_level_labels=np.array([o["image_level_label"] for o in own], np.int64),
                confidences=np.array([o["confidence"] for o in own], np.float32)))
        return annotations

    def denormalize_gt_bboxes(self, annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Annotations, in place, with boxes in pixels."""
        for ann, (height, width) in zip(annotations, self.test_img_shapes):
            ann["bboxes"][:, 0::2] *= width
            ann["bboxes"][:, 1::2] *= height
        return annotations

    def get_cat_ids(self, idx: int) -> list[int]:
        """Classes of the objects of an image."""
        return self.get_ann_info(idx)["labels"].astype(int).tolist()

    def evaluate(self, results: Any, metric: Any = "mAP",  # type: ignore[override]
                 logger: Any = None, iou_thr: Any = 0.5, ioa_thr: Any = 0.5,
                 scale_ranges: Any = None, denorm_gt_bbox: bool = True,
                 use_group_of: bool = True) -> dict[str, float]:
        """Open Images' mean average precision.

        Args:
            results: of each image and class, boxes with scores [n, 5]; they are changed, see
                :meth:`process_results`.
            metric: ``'mAP'``.
            logger: where tables go.
            iou_thr: the overlap of a right detection, or several.
            ioa_thr: the part of a detection that must lie in a group's box; one for each
                ``iou_thr``.
            scale_ranges: see :func:`fastdet.core.eval_map`.
            denorm_gt_bbox: boxes are in parts of the images' sides.
            use_group_of: boxes around groups count as such.

        Raises:
            KeyError: the metric is unknown.
            ValueError: sizes of images are missing, or there are not as many thresholds.
        """
        self._one_metric(metric)
        annotations = [self.get_ann_info(i) for i in range(len(self))]
        levels = self.get_image_level_ann(self.image_level_ann_file) \
            if self.load_image_level_labels else None
        if denorm_gt_bbox:
            if self.get_metas and self.load_from_file:
                if not self.meta_file.endswith("pkl"):
                    raise ValueError(f"meta_file must be a .pkl file, got {self.meta_file!r}")
                self.get_meta_from_file(self.meta_file)
            else:
                self.get_img_shape(self.test_img_metas)
            annotations = self.denormalize_gt_bboxes(annotations)
        self.temp_img_metas, self.test_img_metas, self.test_img_shapes = [], [], []
        if self.get_supercategory:
            annotations = self.add_supercategory_ann(annotations)
        results = self.process_results(results, annotations, levels)
        thrs = [iou_thr] if isinstance(iou_thr, float) else list(iou_thr)
        parts = [ioa_thr] if ioa_thr is None or isinstance(ioa_thr, float) else list(ioa_thr)
        if len(thrs) != len(parts) or (use_group_of and None in parts):
            raise ValueError(f"an ioa_thr is needed for each iou_thr, got {ioa_thr} and {iou_thr}")
        return self._scores(results, annotations, zip(thrs, parts), scale_ranges, logger,
                            use_group_of)

    def _scores(self, results: Any, annotations: Any, thresholds: Any, scale_ranges: Any,
                logger: Any, use_group_of: bool) -> dict[str, float]:
        names: Any = {500: "oid_challenge", 601: "oid_v6"}.get(len(self.CLASSES), self.CLASSES)
        found: dict[str, float] = OrderedDict()
        means = []
        for iou, ioa in thresholds:
            say(f"\n{'-' * 15}iou_thr, ioa_thr: {iou}, {ioa}{'-' * 15}", logger)
            mean, _ = eval_map(results, annotations, scale_ranges=scale_ranges, iou_thr=iou,
                               ioa_thr=ioa, dataset=names, logger=logger,
                               use_group_of=use_group_of)
            means.append(mean)
            found[f"AP{int(iou * 100):02d}"] = round(mean, 3)
        found["mAP"] = sum(means) / len(means)
        return found


@DATASETS.register_module()
class OpenImagesChallengeDataset(OpenImagesDataset):
    """The Open Images challenge of 2019.

    Args:
        ann_file: a text file; of each image its name, a line that is not read, the number of
            boxes, and a line for each: label from 1 on, corners, whether it is around a group.
        kwargs: of :class:`OpenImagesDataset`; ``hierarchy_file`` is the matrix as ``.np``.

    Raises:
        ValueError: the file has another ending.
    """

    _HIERARCHY = "np"

    def __init__(self, ann_file: str, **kwargs: Any) -> None:
        if not ann_file.endswith("txt"):
            raise ValueError(f"ann_file of {type(self).__name__} must be a .txt file, got "
                             f"{ann_file!r}")
        super().__init__(ann_file=ann_file, **kwargs)

    def get_classes_from_csv(self, label_file: str) -> list[str]:
        """Names of the classes, in the order of their numbers."""
        names = []
        for label, name, number, *_ in _rows(label_file, header=False):
            names.append((int(number), name))
            self.index_dict[label] = int(number) - 1
        return [name for _, name in sorted(names, key=lambda pair: pair[0])]

    def load_annotations(self, ann_file: str) -> list[dict[str, Any]]:
        """Name and annotations of every image."""
        with open(ann_file, encoding="utf-8") as f:
            lines = f.read().splitlines()
        infos, at = [], 0
        while at < len(lines):
            count = int(lines[at + 2])
            rows = [line.split() for line in lines[at + 3:at + 3 + count]]
            if len(rows) != count:
                raise ValueError(f"{ann_file} ends before the {count} boxes of {lines[at]}")
            infos.append(dict(img_info=dict(filename=lines[at].rstrip()), ann_info=dict(
                bboxes=np.array([row[1:5] for row in rows], np.float32).reshape(-1, 4),
                labels=np.array([int(row[0]) - 1 for row in rows], np.int64),
                bboxes_ignore=np.zeros((0, 4), np.float32),
                gt_is_group_ofs=np.array([int(row[5]) == 1 for row in rows], dtype=bool))))
            at += 3 + count
        return infos

    def get_relation_matrix(self, hierarchy_file: str) -> np.ndarray:
        """[classes, classes] out of the challenge's file, which has a first row and column more."""
        related = np.load(self._below_root(hierarchy_file))
        return related[1:, 1:]

    def get_ann_info(self, idx: int) -> dict[str, Any]:
        """Annotations of an image, a copy."""
        return copy.deepcopy(self.data_infos[idx]["ann_info"])

    def load_image_label_from_csv(self, image_level_ann_file: str
                                  ) -> dict[str, list[dict[str, Any]]]:
        """Labels of whole images, by their ids."""
        return self._image_labels(image_level_ann_file, label=1, confidence=2)
