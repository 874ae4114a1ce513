"""The base of all data sets."""

from __future__ import annotations

import os.path as osp
import warnings
from collections import OrderedDict
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from fastdet.core.evaluation import eval_map, eval_recalls
from fastdet.core.evaluation.report import say, text_table
from fastdet.mmcv.fileio import FileClient, list_from_file, load

from .builder import DATASETS
from .pipelines import Compose

__all__ = ["CustomDataset"]

Results = dict[str, Any]


@DATASETS.register_module()
class CustomDataset(Dataset):
    """A data set whose annotations are a list in a file (pickle, JSON or YAML).

    The file's list has for each image ``filename``, ``width``, ``height`` and ``ann``: ``bboxes``
    [n, 4], ``labels`` [n] and, where there are any, ``bboxes_ignore`` [k, 4].

    Args:
        ann_file: the annotations.
        pipeline: what is done to an image, as configs.
        classes: names of the classes, or a file with one a line; the data set's own by default.
        data_root: the folder that relative paths start from.
        img_prefix: the folder of the images.
        seg_prefix: the folder of the semantic maps.
        seg_suffix: the ending of their names.
        proposal_file: proposals of every image, in a file.
        test_mode: no annotations, no image left out.
        filter_empty_gt: leave out images that have no object.
        file_client_args: how files are read, see :class:`fastdet.mmcv.fileio.FileClient`.
    """

    CLASSES: Any = None
    PALETTE: Any = None
    #: What :meth:`evaluate` knows.
    METRICS: tuple[str, ...] = ("mAP", "recall")

    def __init__(self, ann_file: str, pipeline: list[Any], classes: Any = None,
                 data_root: str | None = None, img_prefix: str = "",
                 seg_prefix: str | None = None, seg_suffix: str = ".png",
                 proposal_file: str | None = None, test_mode: bool = False,
                 filter_empty_gt: bool = True,
                 file_client_args: dict[str, Any] = dict(backend="disk")) -> None:
        self.ann_file = ann_file
        self.data_root = data_root
        self.img_prefix = img_prefix
        self.seg_prefix = seg_prefix
        self.seg_suffix = seg_suffix
        self.proposal_file = proposal_file
        self.test_mode = test_mode
        self.filter_empty_gt = filter_empty_gt
        self.file_client = FileClient(**file_client_args)
        self.CLASSES = self.get_classes(classes)
        if data_root is not None:
            for name in ("ann_file", "img_prefix", "seg_prefix", "proposal_file"):
                path = getattr(self, name)
                if path is not None and not osp.isabs(path):
                    setattr(self, name, osp.join(data_root, path))
        with self.file_client.get_local_path(self.ann_file) as path:
            self.data_infos: Any = self.load_annotations(str(path))
        self.proposals: Any = None
        if self.proposal_file is not None:
            with self.file_client.get_local_path(self.proposal_file) as path:
                self.proposals = self.load_proposals(str(path))
        if not test_mode:
            valid = self._filter_imgs()
            self.data_infos = [self.data_infos[i] for i in valid]
            if self.proposals is not None:
                self.proposals = [self.proposals[i] for i in valid]
            self._set_group_flag()
        self.pipeline = Compose(pipeline)

    def __len__(self) -> int:
        return len(self.data_infos)

    def load_annotations(self, ann_file: str) -> Any:
        """What the file holds of every image."""
        return load(ann_file)

    def load_proposals(self, proposal_file: str) -> Any:
        """What the file holds of every image, [n, 4] or [n, 5]."""
        return load(proposal_file)

    def get_ann_info(self, idx: int) -> Results:
        """Annotations of an image."""
        return self.data_infos[idx]["ann"]

    def get_cat_ids(self, idx: int) -> list[int]:
        """Classes of the objects of an image."""
        return self.get_ann_info(idx)["labels"].astype(int).tolist()

    def pre_pipeline(self, results: Results) -> None:
        """What a pipeline needs to know of the data set."""
        results["img_prefix"] = self.img_prefix
        results["seg_prefix"] = self.seg_prefix
        results["proposal_file"] = self.proposal_file
        results["bbox_fields"] = []
        results["mask_fields"] = []
        results["seg_fields"] = []

    def _filter_imgs(self, min_size: int = 32) -> list[int]:
        """Images that are trained on."""
        if self.filter_empty_gt:
            warnings.warn(f"{type(self).__name__} keeps images without objects: "
                          "filter_empty_gt has no effect", stacklevel=2)
        return [i for i, info in enumerate(self.data_infos)
                if min(info["width"], info["height"]) >= min_size]

    def _set_group_flag(self) -> None:
        """``flag``: 1 for images that are wider than high."""
        wide = [info["width"] / info["height"] > 1 for info in self.data_infos]
        self.flag = np.array(wide, dtype=np.uint8)

    def _rand_another(self, idx: int) -> int:
        """An image of the same group."""
        pool = np.flatnonzero(self.flag == self.flag[idx])
        return int(np.random.choice(pool))  # noqa: NPY002 -- MMDetection's stream

    def __getitem__(self, idx: int) -> Any:
        if self.test_mode:
            return self.prepare_test_img(idx)
        while True:
            data = self.prepare_train_img(idx)
            if data is not None:
                return data
            idx = self._rand_another(idx)

    def _results(self, idx: int) -> Results:
        results: Results = dict(img_info=self.data_infos[idx])
        if self.proposals is not None:
            results["proposals"] = self.proposals[idx]
        return results

    def prepare_train_img(self, idx: int) -> Any:
        """An image with annotations through the pipeline; ``None`` where it drops the image."""
        results = self._results(idx)
        results["ann_info"] = self.get_ann_info(idx)
        self.pre_pipeline(results)
        return self.pipeline(results)

    def prepare_test_img(self, idx: int) -> Any:
        """An image through the pipeline."""
        results = self._results(idx)
        self.pre_pipeline(results)
        return self.pipeline(results)

    @classmethod
    def get_classes(cls, classes: Any = None) -> Any:
        """Names of classes: given ones, those of a file, or the data set's own.

        Raises:
            ValueError: ``classes`` is something else.
        """
        if classes is None:
            return cls.CLASSES
        if isinstance(classes, str):
            return list_from_file(classes)
        if isinstance(classes, (tuple, list)):
            return classes
        raise ValueError("classes must be a list or tuple of names or a file with one a line, got "
                         f"{type(classes).__name__}")

    def get_cat2imgs(self) -> dict[int, list[int]]:
        """Images that hold each class.

        Raises:
            ValueError: the data set has no classes.
        """
        if self.CLASSES is None:
            raise ValueError(f"{type(self).__name__} has no CLASSES; give it classes=")
        images: dict[int, list[int]] = {i: [] for i in range(len(self.CLASSES))}
        for i in range(len(self)):
            for label in set(self.get_cat_ids(i)):
                images[label].append(i)
        return images

    def format_results(self, results: Any, **kwargs: Any) -> Any:
        """Results in the form of the data set's own benchmark; here there is none."""

    def evaluate(self, results: Any, metric: Any = "mAP", logger: Any = None,
                 proposal_nums: Any = (100, 300, 1000), iou_thr: Any = 0.5,
                 scale_ranges: Any = None) -> dict[str, float]:
        """Numbers that results are judged by.

        Args:
            results: of each image, of each class boxes [n, 5]; proposals [n, 5] for ``'recall'``.
            metric: ``'mAP'`` or ``'recall'``.
            logger: where tables go; see :func:`fastdet.mmcv.utils.print_log`.
            proposal_nums: how many of the best proposals count.
            iou_thr: one overlap, or several.
            scale_ranges: see :func:`fastdet.core.eval_map`.

        Raises:
            KeyError: the metric is unknown.
        """
        annotations = [self.get_ann_info(i) for i in range(len(self))]
        metric = self._one_metric(metric)
        thrs = [iou_thr] if isinstance(iou_thr, float) else list(iou_thr)
        if metric == "recall":
            return self._recalls(results, annotations, proposal_nums, thrs, logger)
        return self._mean_ap(results, annotations, thrs, logger, scale_ranges=scale_ranges,
                             dataset=self.CLASSES)

    def _one_metric(self, metric: Any) -> str:
        if not isinstance(metric, str):
            if len(metric) != 1:
                raise ValueError(f"one metric at a time, got {metric}")
            metric = metric[0]
        if metric not in self.METRICS:
            raise KeyError(f"metric {metric} is not supported, only {', '.join(self.METRICS)}")
        return metric

    @staticmethod
    def _recalls(results: Any, annotations: list[Results], nums: Any, thrs: list[float],
                 logger: Any, **kwargs: Any) -> dict[str, float]:
        boxes = [ann["bboxes"] for ann in annotations]
        recalls = eval_recalls(boxes, results, nums, thrs, logger=logger, **kwargs)
        found: dict[str, float] = OrderedDict()
        for i, num in enumerate(nums):
            for j, thr in enumerate(thrs):
                found[f"recall@{num}@{thr}"] = recalls[i, j]
        if recalls.shape[1] > 1:
            for i, num in enumerate(nums):
                found[f"AR@{num}"] = recalls[i].mean()
        return found

    @staticmethod
    def _mean_ap(results: Any, annotations: list[Results], thrs: list[float], logger: Any,
                 **kwargs: Any) -> dict[str, float]:
        found: OrderedDict[str, float] = OrderedDict()
        means = []
        for thr in thrs:
            say(f"\n{'-' * 15}iou_thr: {thr}{'-' * 15}", logger)
            mean, _ = eval_map(results, annotations, iou_thr=thr, logger=logger, **kwargs)
            means.append(mean)
            if not isinstance(mean, list):
                found[f"AP{int(thr * 100):02d}"] = round(mean, 3)
        found["mAP"] = sum(means) / len(means) if not isinstance(means[0], list) \
            else np.mean(means, axis=0).tolist()
        found.move_to_end("mAP", last=False)
        return found

    def __repr__(self) -> str:
        kind = "Test" if self.test_mode else "Train"
        told = f"\n{type(self).__name__} {kind} dataset with number of images {len(self)}"
        if self.CLASSES is None:
            return f"{told}. Category names are not provided."
        count = np.zeros(len(self.CLASSES) + 1, dtype=int)
        for i in range(len(self)):
            labels = np.asarray(self.get_ann_info(i)["labels"], dtype=int)
            if len(labels):
                count[:len(self.CLASSES)] += np.bincount(
                    labels, minlength=len(self.CLASSES))[:len(self.CLASSES)]
            else:
                count[-1] += 1
        rows = [[f"{i} [{name}]", n] for i, (name, n) in enumerate(zip(self.CLASSES, count)) if n]
        if count[-1]:
            rows.append(["-1 background", count[-1]])
        return f"{told}, and instance counts: \n{text_table(['category', 'count'], rows)}"
