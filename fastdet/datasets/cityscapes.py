"""Cityscapes with instances."""

from __future__ import annotations

import glob
import os
import os.path as osp
import tempfile
from collections import OrderedDict
from typing import Any

import numpy as np

from fastdet.core.evaluation.class_names import data_set
from fastdet.core.evaluation.report import say
from fastdet.core.mask.geometry import coco_mask
from fastdet.mmcv.image import imwrite
from fastdet.mmcv.utils.misc import optional_import
from fastdet.utils.numpy_names import mended

from .builder import DATASETS
from .coco import CocoDataset

__all__ = ["CityscapesDataset"]

_IOU_THRS = np.arange(0.5, 0.96, 0.05)


def _scripts(module: str) -> Any:
    """A module of Cityscapes' own scripts."""
    return optional_import(f"cityscapesscripts.{module}", "CityscapesDataset", "cityscapesscripts")


@DATASETS.register_module()
class CityscapesDataset(CocoDataset):
    """Cityscapes (Cordts et al., arXiv:1604.01685), its annotations in COCO's format.

    Arguments are :class:`CustomDataset`'s. Images whose objects are all crowds count as empty.
    """

    CLASSES = data_set("cityscapes")
    PALETTE = data_set("cityscapes", "palette")
    METRICS = ("cityscapes", *CocoDataset.METRICS)

    def _filter_imgs(self, min_size: int = 32) -> list[int]:
        ids = self.img_ids
        valid = []
        for i in super()._filter_imgs(min_size):
            crowds = [ann["iscrowd"] for ann in self._annotations(i)]
            if not (self.filter_empty_gt and all(crowds)):
                valid.append(i)
        self.img_ids = [ids[i] for i in valid]
        return valid

    def _parse_ann_info(self, img_info: dict[str, Any],
                        ann_info: list[dict[str, Any]]) -> dict[str, Any]:
        boxes, labels, ignored, masks = [], [], [], []
        for ann in ann_info:
            x, y, w, h = ann["bbox"]
            if ann.get("ignore", False) or ann["area"] <= 0 or w < 1 or h < 1 \
                    or ann["category_id"] not in self.cat_ids:
                continue
            if ann.get("iscrowd", False):
                ignored.append([x, y, x + w, y + h])
            else:
                boxes.append([x, y, x + w, y + h])
                labels.append(self.cat2label[ann["category_id"]])
                masks.append(ann["segmentation"])
        return dict(bboxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
                    labels=np.array(labels, dtype=np.int64),
                    bboxes_ignore=np.array(ignored, dtype=np.float32).reshape(-1, 4),
                    masks=masks, seg_map=img_info["segm_file"])

    def results2txt(self, results: Any, outfile_prefix: str) -> list[str]:
        """Write results as Cityscapes' server takes them.

        Args:
            results: of each image a pair of boxes [n, 5] and masks as run-length codes, of each
                class.
            outfile_prefix: the folder; in it a text file for each image, and a PNG for each mask.

        Returns:
            The text files.

        Raises:
            ImportError: the package cityscapesscripts is not installed.
        """
        ids = {name: label.id for name, label in _scripts("helpers.labels").name2label.items()}
        os.makedirs(outfile_prefix, exist_ok=True)
        files = []
        for info, (det, seg) in zip(self.data_infos, results):
            name = osp.splitext(osp.basename(info["filename"]))[0]
            # Mask scoring gives the masks scores of their own.
            masks, scores = seg if isinstance(seg, tuple) else (seg, [b[:, -1] for b in det])
            codes = [(label, mask) for label, own in enumerate(masks) for mask in own]
            lines = []
            for i, ((label, code), score) in enumerate(zip(codes, np.hstack(scores))):
                file = f"{name}_{i}_{self.CLASSES[label]}.png"
                imwrite(coco_mask().decode(code).astype(np.uint8), osp.join(outfile_prefix, file))
                lines.append(f"{file} {ids[self.CLASSES[label]]} {score}\n")
            files.append(osp.join(outfile_prefix, f"{name}_pred.txt"))
            with open(files[-1], "w", encoding="utf-8") as f:
                f.writelines(lines)
        return files

    def format_results(self, results: Any,  # type: ignore[override]
                       txtfile_prefix: str | None = None) -> tuple[list[str], Any]:
        """:meth:`results2txt`, into a temporary folder where no other is given.

        Returns:
            The files, and the folder or ``None``.

        Raises:
            ValueError: there are not as many results as images.
        """
        self._check_count(results)
        folder = None
        if txtfile_prefix is None:
            folder = tempfile.TemporaryDirectory()
            txtfile_prefix = osp.join(folder.name, "results")
        return self.results2txt(results, txtfile_prefix), folder

    def evaluate(self, results: Any, metric: Any = "bbox",  # type: ignore[override]
                 logger: Any = None, outfile_prefix: str | None = None, classwise: bool = False,
                 proposal_nums: Any = (100, 300, 1000),
                 iou_thrs: Any = _IOU_THRS) -> dict[str, Any]:
        """Cityscapes' numbers and COCO's.

        Args:
            metric: ``'cityscapes'`` (``mAP`` and ``AP@50``, by Cityscapes' own scripts), or what
                :meth:`CocoDataset.evaluate` has, or several.
            outfile_prefix: keep the results there.
            results, logger, classwise, proposal_nums, iou_thrs: see there.

        Raises:
            ImportError: ``'cityscapes'`` is asked for and the package is not installed.
            KeyError: a metric is unknown.
            ValueError: there are no files of ground truth for ``'cityscapes'``.
        """
        metrics = self._metrics(metric)
        found: dict[str, Any] = {}
        if "cityscapes" in metrics:
            found.update(self._evaluate_cityscapes(results, outfile_prefix, logger))
            metrics.remove("cityscapes")
        if metrics:
            files, folder = CocoDataset.format_results(self, results, outfile_prefix)
            try:
                found.update(self.evaluate_det_segm(results, files, self.coco, metrics, logger,
                                                    classwise, proposal_nums, iou_thrs))
            finally:
                if folder is not None:
                    folder.cleanup()
        return found

    def _evaluate_cityscapes(self, results: Any, outfile_prefix: str | None,
                             logger: Any) -> dict[str, float]:
        """By Cityscapes' scripts, which find the ground truth by the images' folder."""
        scripts = _scripts("evaluation.evalInstanceLevelSemanticLabeling")
        say(f"{'' if logger is not None else chr(10)}Evaluating in Cityscapes style", logger)
        truth = osp.join(self.img_prefix.replace("leftImg8bit", "gtFine"),
                         "*/*_gtFine_instanceIds.png")
        images = glob.glob(truth)
        if not images:
            raise ValueError(f"there are no ground truth images {truth}")
        _, folder = self.format_results(results, outfile_prefix)
        where = osp.abspath(osp.join(folder.name, "results") if folder is not None
                            else str(outfile_prefix))
        try:
            args = scripts.args  # the scripts' one state
            args.cityscapesPath = osp.join(self.img_prefix, "../..")
            args.predictionPath, args.predictionWalk = where, None
            args.JSONOutput = args.colorized = False
            args.gtInstancesFile = osp.join(where, "gtInstances.json")
            args.groundTruthSearch = truth
            predictions = [scripts.getPrediction(image, args) for image in images]
            with mended():  # cityscapesscripts 2.3 has np.in1d
                # evaluateImgLists, without the file that it leaves in the current folder.
                scripts.setInstanceLabels(args)
                instances = scripts.getGtInstances(images, args)
                matches = scripts.matchGtWithPreds(predictions, images, instances, args)
                found = scripts.computeAverages(scripts.evaluateMatches(matches, args), args)
        finally:
            if folder is not None:
                folder.cleanup()
        return OrderedDict([("mAP", found["allAp"]), ("AP@50", found["allAp50%"])])
