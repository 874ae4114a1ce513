"""LVIS."""

from __future__ import annotations

import contextlib
import io
import logging
from collections import OrderedDict
from typing import Any

import numpy as np

from fastdet.core.evaluation.class_names import data_set
from fastdet.core.evaluation.report import say
from fastdet.mmcv.fileio import load
from fastdet.mmcv.utils.misc import optional_import
from fastdet.utils.numpy_names import mended

from .builder import DATASETS
from .coco import CocoDataset

__all__ = ["LVISDataset", "LVISV05Dataset", "LVISV1Dataset"]

_IOU_THRS = np.arange(0.5, 0.96, 0.05)


@DATASETS.register_module()
class LVISV05Dataset(CocoDataset):
    """LVIS v0.5 (Gupta et al., arXiv:1908.03195), read and judged by the package lvis.

    Arguments are :class:`CustomDataset`'s.
    """

    CLASSES: Any = data_set("lvis_v0.5")
    PALETTE = None

    @staticmethod
    def _name(info: dict[str, Any]) -> str:
        """An image's file: those of COCO 2014 have its prefix in front."""
        name = info["file_name"]
        return name[-16:] if name.startswith("COCO") else name

    def load_annotations(self, ann_file: str) -> list[dict[str, Any]]:
        """What the file holds of every image."""
        from .api_wrappers.coco_api import read_coco

        self.coco = read_coco(ann_file, optional_import("lvis", type(self).__name__).LVIS)
        self.cat_ids = self.coco.get_cat_ids()
        self.cat2label = {cat_id: i for i, cat_id in enumerate(self.cat_ids)}
        self.img_ids = self.coco.get_img_ids()
        infos = []
        for img_id in self.img_ids:
            info = self.coco.load_imgs([img_id])[0]
            infos.append({**info, "filename": self._name(info)})
        return infos

    def evaluate(self, results: Any, metric: Any = "bbox",  # type: ignore[override]
                 logger: Any = None, jsonfile_prefix: str | None = None, classwise: bool = False,
                 proposal_nums: Any = (100, 300, 1000),
                 iou_thrs: Any = _IOU_THRS) -> dict[str, Any]:
        """LVIS's numbers, ``bbox_AP``, ``bbox_APr`` and so on; see :meth:`CocoDataset.evaluate`.

        Args:
            results, logger, jsonfile_prefix, proposal_nums, iou_thrs: see there.
            metric: ``'bbox'``, ``'segm'``, ``'proposal'``, ``'proposal_fast'``, or several.
            classwise: also show every class's AP.
        """
        metrics = self._metrics(metric)
        files, folder = self.format_results(results, jsonfile_prefix)
        found: dict[str, Any] = OrderedDict()
        try:
            for name in metrics:
                say(f"{'' if logger is not None else chr(10)}Evaluating {name}...", logger)
                if name == "proposal_fast":
                    ar = self.fast_eval_recall(results, proposal_nums, iou_thrs, logger="silent")
                    found.update({f"AR@{n}": v for n, v in zip(proposal_nums, ar)})
                    say("".join(f"\nAR@{n}\t{v:.4f}" for n, v in zip(proposal_nums, ar)), logger)
                    continue
                if name not in files:
                    raise KeyError(f"{name} is not in results")
                with mended():  # lvis 0.5.3 has np.float
                    found.update(self._lvis_eval(files[name], name, classwise, logger))
        finally:
            if folder is not None:
                folder.cleanup()
        return found

    def _lvis_eval(self, file: str, metric: str, classwise: bool,
                   logger: Any) -> dict[str, Any]:
        lvis = optional_import("lvis", type(self).__name__)
        predictions = load(file)
        if not predictions:
            say("The testing results of the whole dataset is empty.", logger, logging.ERROR)
            return {}
        kind = "bbox" if metric == "proposal" else metric
        evaluation = lvis.LVISEval(self.coco, lvis.LVISResults(self.coco, predictions), kind)
        evaluation.params.img_ids = self.img_ids
        # Proposals, too, are judged by class and at 300 an image: MMDetection's numbers are these.
        evaluation.run()
        scores = evaluation.get_results()
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            evaluation.print_results()
        say("\n" + told.getvalue(), logger)
        if metric == "proposal":
            return {k: float(f"{float(v):.3f}") for k, v in scores.items() if k.startswith("AR")}
        if classwise:
            self._by_class_lvis(evaluation, logger)
        found: dict[str, Any] = {f"{metric}_{k}": float(f"{float(v):.3f}")
                                 for k, v in scores.items() if k.startswith("AP")}
        found[f"{metric}_mAP_copypaste"] = " ".join(
            f"{k}:{float(v):.3f}" for k, v in scores.items() if k.startswith("AP"))
        return found

    def _by_class_lvis(self, evaluation: Any, logger: Any) -> None:
        precision = evaluation.eval["precision"]  # overlap, recall, class, area
        for i, cat_id in enumerate(self.cat_ids):
            values = precision[:, :, i, 0]
            values = values[values > -1]
            ap = values.mean() if values.size else float("nan")
            say(f"{self.coco.load_cats([cat_id])[0]['name']}: {float(ap):0.3f}", logger)


LVISDataset = LVISV05Dataset
DATASETS.register_module(name="LVISDataset", module=LVISDataset)


@DATASETS.register_module()
class LVISV1Dataset(LVISV05Dataset):
    """LVIS v1; images lie in COCO's folders, below ``img_prefix``."""

    CLASSES = data_set("lvis_v1")

    @staticmethod
    def _name(info: dict[str, Any]) -> str:
        """An image's folder and file, from its address."""
        return info["coco_url"].replace("http://images.cocodataset.org/", "")
