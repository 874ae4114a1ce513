"""Data sets with annotations in COCO's format."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os.path as osp
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastdet.core.evaluation import eval_recalls
from fastdet.core.evaluation.class_names import data_set
from fastdet.core.evaluation.report import say, text_table
from fastdet.mmcv.fileio import dump, load

from .builder import DATASETS
from .custom import CustomDataset

__all__ = ["CocoDataset"]

#: Where COCOeval's summary has each number.
_PLACES = {"mAP": 0, "mAP_50": 1, "mAP_75": 2, "mAP_s": 3, "mAP_m": 4, "mAP_l": 5, "AR@100": 6,
           "AR@300": 7, "AR@1000": 8, "AR_s@1000": 9, "AR_m@1000": 10, "AR_l@1000": 11}
_RECALLS = ("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000")
_PRECISIONS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")


@DATASETS.register_module()
class CocoDataset(CustomDataset):
    """COCO (Lin et al., arXiv:1405.0312), or any data set with annotations in its format.

    Arguments are :class:`CustomDataset`'s. Crowds are ignored; objects without area, narrower than
    a pixel or outside the image are left out.
    """

    CLASSES: Any = data_set("coco")
    PALETTE: Any = data_set("coco", "palette")
    METRICS: tuple[str, ...] = ("bbox", "segm", "proposal", "proposal_fast")

    def load_annotations(self, ann_file: str) -> list[dict[str, Any]]:
        """What the file holds of every image.

        Raises:
            ValueError: it is not in COCO's format, or two annotations have one id.
        """
        from .api_wrappers.coco_api import read_coco

        self.coco = read_coco(ann_file)
        # By the order of CLASSES where they are given, else of the file.
        self.cat_ids = self.coco.get_cat_ids(cat_names=self.CLASSES)
        self.cat2label = {cat_id: i for i, cat_id in enumerate(self.cat_ids)}
        self.img_ids = self.coco.get_img_ids()
        infos, seen = [], []
        for img_id in self.img_ids:
            info = self.coco.load_imgs([img_id])[0]
            info["filename"] = info["file_name"]
            infos.append(info)
            seen.extend(self.coco.get_ann_ids(img_ids=[img_id]))
        if len(set(seen)) != len(seen):
            raise ValueError(f"annotation ids in {ann_file!r} are not unique")
        return infos

    def _annotations(self, idx: int) -> list[dict[str, Any]]:
        ids = self.coco.get_ann_ids(img_ids=[self.data_infos[idx]["id"]])
        return self.coco.load_anns(ids)

    def get_ann_info(self, idx: int) -> dict[str, Any]:
        """Annotations of an image: ``bboxes``, ``labels``, ``bboxes_ignore``, ``masks``,
        ``seg_map``."""
        return self._parse_ann_info(self.data_infos[idx], self._annotations(idx))

    def get_cat_ids(self, idx: int) -> list[int]:
        """Classes of the objects of an image, by COCO's ids."""
        return [ann["category_id"] for ann in self._annotations(idx)]

    def _filter_imgs(self, min_size: int = 32) -> list[int]:
        annotated = {ann["image_id"] for ann in self.coco.anns.values()}
        ours = set(itertools.chain(*(self.coco.cat_img_map[c] for c in self.cat_ids))) & annotated
        valid = [i for i, info in enumerate(self.data_infos)
                 if not (self.filter_empty_gt and self.img_ids[i] not in ours)
                 and min(info["width"], info["height"]) >= min_size]
        self.img_ids = [self.img_ids[i] for i in valid]
        return valid

    def _parse_ann_info(self, img_info: dict[str, Any],
                        ann_info: list[dict[str, Any]]) -> dict[str, Any]:
        """Arrays of one image's annotations."""
        boxes, labels, ignored, masks = [], [], [], []
        for ann in ann_info:
            if ann.get("ignore", False):
                continue
            x, y, w, h = ann["bbox"]
            inside_w = max(0, min(x + w, img_info["width"]) - max(x, 0))
            inside_h = max(0, min(y + h, img_info["height"]) - max(y, 0))
            if inside_w * inside_h == 0 or ann["area"] <= 0 or w < 1 or h < 1 \
                    or ann["category_id"] not in self.cat_ids:
                continue
            box = [x, y, x + w, y + h]
            if ann.get("iscrowd", False):
                ignored.append(box)
            else:
                boxes.append(box)
                labels.append(self.cat2label[ann["category_id"]])
                masks.append(ann.get("segmentation", None))
        return dict(bboxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
                    labels=np.array(labels, dtype=np.int64),
                    bboxes_ignore=np.array(ignored, dtype=np.float32).reshape(-1, 4),
                    masks=masks,
                    seg_map=img_info["filename"].rsplit(".", 1)[0] + self.seg_suffix)

    def xyxy2xywh(self, bbox: np.ndarray) -> list[float]:
        """A box of corners to COCO's (x, y, w, h)."""
        x1, y1, x2, y2 = bbox.tolist()[:4]
        return [x1, y1, x2 - x1, y2 - y1]

    def _entry(self, idx: int, box: np.ndarray, score: Any, category: int) -> dict[str, Any]:
        return {"image_id": self.img_ids[idx], "bbox": self.xyxy2xywh(box), "score": float(score),
                "category_id": category}

    def _proposal2json(self, results: Any) -> list[dict[str, Any]]:
        return [self._entry(i, box, box[4], 1) for i in range(len(self)) for box in results[i]]

    def _det2json(self, results: Any) -> list[dict[str, Any]]:
        return [self._entry(i, box, box[4], self.cat_ids[label]) for i in range(len(self))
                for label, boxes in enumerate(results[i]) for box in boxes]

    def _segm2json(self, results: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        found = []
        for i in range(len(self)):
            det, seg = results[i]
            # Mask scoring gives the masks scores of their own.
            masks, scores = seg if isinstance(seg, tuple) else (seg, None)
            for label, boxes in enumerate(det):
                for j, box in enumerate(boxes):
                    code = dict(masks[label][j])
                    if isinstance(code["counts"], bytes):
                        code["counts"] = code["counts"].decode()
                    score = box[4] if scores is None else scores[label][j]
                    entry = self._entry(i, box, score, self.cat_ids[label])
                    found.append({**entry, "segmentation": code})
        return self._det2json([r[0] for r in results]), found

    def results2json(self, results: Any, outfile_prefix: str) -> dict[str, str]:
        """Write results as COCO's server takes them.

        Args:
            results: of each image, of each class boxes [n, 5]; or a pair of that and masks as
                run-length codes; or proposals [n, 5].
            outfile_prefix: the files are ``PREFIX.bbox.json`` and so on.

        Returns:
            The file of each kind: ``bbox``, ``segm``, ``proposal``.
        """
        kinds: dict[str, Any]
        if isinstance(results[0], list):
            kinds = {"bbox": self._det2json(results)}
        elif isinstance(results[0], tuple):
            kinds = dict(zip(("bbox", "segm"), self._segm2json(results)))
        elif isinstance(results[0], np.ndarray):
            kinds = {"proposal": self._proposal2json(results)}
        else:
            raise TypeError("a result must be a list of arrays, a pair with masks or an array of "
                            f"proposals, got {type(results[0]).__name__}")
        files = {kind: f"{outfile_prefix}.{kind}.json" for kind in kinds}
        if "bbox" in files:
            files["proposal"] = files["bbox"]
        for kind, entries in kinds.items():
            dump(entries, files[kind])
        return files

    def _check_count(self, results: Any) -> None:
        if not isinstance(results, list):
            raise TypeError(f"results must be a list, got {type(results).__name__}")
        if len(results) != len(self):
            raise ValueError(f"there are {len(results)} results for {len(self)} images")

    def _metrics(self, metric: Any) -> list[str]:
        """The metrics that are asked for, which must be known."""
        metrics = [metric] if isinstance(metric, str) else list(metric)
        for name in metrics:
            if name not in self.METRICS:
                raise KeyError(f"metric {name} is not supported, only {', '.join(self.METRICS)}")
        return metrics

    def format_results(self, results: Any, jsonfile_prefix: str | None = None,
                       **kwargs: Any) -> tuple[Any, Any]:
        """:meth:`results2json`, into a temporary folder where no prefix is given.

        Returns:
            The files, and the temporary folder (or ``None``), which its owner cleans up.
        """
        self._check_count(results)
        folder = None
        if jsonfile_prefix is None:
            folder = tempfile.TemporaryDirectory()
            jsonfile_prefix = osp.join(folder.name, "results")
        return self.results2json(results, jsonfile_prefix), folder

    def _true_boxes(self) -> Iterator[np.ndarray]:
        for img_id in self.img_ids:
            anns = self.coco.load_anns(self.coco.get_ann_ids(img_ids=img_id))
            boxes = [ann["bbox"] for ann in anns
                     if not (ann.get("ignore", False) or ann["iscrowd"])]
            xywh = np.array(boxes, dtype=np.float32).reshape(-1, 4)
            yield np.hstack((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]))

    def fast_eval_recall(self, results: Any, proposal_nums: Any, iou_thrs: Any,
                         logger: Any = None) -> np.ndarray:
        """Mean recall over the overlaps, for each number of proposals."""
        recalls = eval_recalls(list(self._true_boxes()), results, proposal_nums, iou_thrs,
                               logger=logger)
        return recalls.mean(axis=1)

    def evaluate(self, results: Any, metric: Any = "bbox", logger: Any = None,  # type: ignore
                 jsonfile_prefix: str | None = None, classwise: bool = False,
                 proposal_nums: Any = (100, 300, 1000), iou_thrs: Any = None,
                 metric_items: Any = None) -> dict[str, Any]:
        """COCO's numbers.

        Args:
            results: see :meth:`results2json`.
            metric: ``'bbox'``, ``'segm'``, ``'proposal'``, ``'proposal_fast'``, or several.
            logger: where tables go.
            jsonfile_prefix: keep the results' files there.
            classwise: also show every class's AP.
            proposal_nums: most detections of an image that count.
            iou_thrs: overlaps; 0.5, 0.55 ... 0.95 by default.
            metric_items: which of COCO's numbers, as ``['mAP', 'AR@100']``.

        Returns:
            ``bbox_mAP``, ``bbox_mAP_50`` and so on.

        Raises:
            KeyError: a metric or item is unknown.
        """
        metrics = self._metrics(metric)
        self.cat_ids = self.coco.get_cat_ids(cat_names=self.CLASSES)
        files, folder = self.format_results(results, jsonfile_prefix)
        try:
            return self.evaluate_det_segm(results, files, self.coco, metrics, logger, classwise,
                                          proposal_nums, iou_thrs, metric_items)
        finally:
            if folder is not None:
                folder.cleanup()

    def evaluate_det_segm(self, results: Any, result_files: dict[str, str], coco_gt: Any,
                          metrics: list[str], logger: Any = None, classwise: bool = False,
                          proposal_nums: Any = (100, 300, 1000), iou_thrs: Any = None,
                          metric_items: Any = None) -> dict[str, Any]:
        """:meth:`evaluate` of files that are written, against given annotations."""
        thrs = np.linspace(0.5, 0.95, 10) if iou_thrs is None else np.atleast_1d(iou_thrs)
        items = [metric_items] if isinstance(metric_items, str) else metric_items
        found: dict[str, Any] = OrderedDict()
        for metric in metrics:
            say(f"{'' if logger is not None else chr(10)}Evaluating {metric}...", logger)
            if metric == "proposal_fast":
                if isinstance(results[0], tuple):
                    raise KeyError("proposal_fast is not supported for results with masks")
                ar = self.fast_eval_recall(results, proposal_nums, thrs, logger="silent")
                for num, value in zip(proposal_nums, ar):
                    found[f"AR@{num}"] = value
                say("".join(f"\nAR@{n}\t{v:.4f}" for n, v in zip(proposal_nums, ar)), logger)
                continue
            if metric not in result_files:
                raise KeyError(f"{metric} is not in results")
            summary = self._coco_eval(coco_gt, result_files[metric], metric, thrs, proposal_nums,
                                      items, logger)
            if summary is None:
                break
            if metric != "proposal" and classwise:
                self._by_class(summary, logger)
            prefix = "" if metric == "proposal" else f"{metric}_"
            for item in items or (_RECALLS if metric == "proposal" else _PRECISIONS):
                found[f"{prefix}{item}"] = float(f"{summary.stats[_PLACES[item]]:.3f}")
            if metric != "proposal":
                found[f"{metric}_mAP_copypaste"] = " ".join(f"{v:.3f}" for v in summary.stats[:6])
        return found

    def _coco_eval(self, coco_gt: Any, file: str, metric: str, thrs: np.ndarray, nums: Any,
                   items: Any, logger: Any) -> Any:
        """pycocotools' evaluation with its summary; ``None`` where there are no results."""
        from .api_wrappers.coco_api import COCOeval

        kind = "bbox" if metric == "proposal" else metric
        for item in items or ():
            if item not in _PLACES:
                raise KeyError(f"metric item {item} is not supported, only {', '.join(_PLACES)}")
        predictions = load(file)
        if not predictions:
            say("The testing results of the whole dataset is empty.", logger, logging.ERROR)
            return None
        if kind == "segm":  # areas are then those of the masks
            for entry in predictions:
                entry.pop("bbox", None)
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            evaluation = COCOeval(coco_gt, coco_gt.loadRes(predictions), kind)
            params = evaluation.params
            params.catIds, params.imgIds = self.cat_ids, self.img_ids
            params.maxDets, params.iouThrs = list(nums), thrs
            if metric == "proposal":
                params.useCats = 0
            evaluation.evaluate()
            evaluation.accumulate()
            told.truncate(0)
            told.seek(0)
            evaluation.summarize()
        say("\n" + told.getvalue(), logger)
        return evaluation

    def _by_class(self, evaluation: Any, logger: Any) -> None:
        """Show the AP of every class."""
        precision = evaluation.eval["precision"]  # overlap, recall, class, area, detections
        rows = []
        for i, cat_id in enumerate(self.cat_ids):
            values = precision[:, :, i, 0, -1]
            values = values[values > -1]
            ap = values.mean() if values.size else float("nan")
            rows.append((self.coco.load_cats(cat_id)[0]["name"], f"{float(ap):0.3f}"))
        cells = [cell for row in rows for cell in row]
        columns = min(6, len(cells))
        cells += [""] * (-len(cells) % columns)
        lines = [cells[i:i + columns] for i in range(0, len(cells), columns)]
        say("\n" + text_table(["category", "AP"] * (columns // 2), lines), logger)
