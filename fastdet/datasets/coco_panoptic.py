"""COCO with panoptic segmentation."""

from __future__ import annotations

import itertools
import os.path as osp
from typing import Any

import numpy as np

from fastdet.core.evaluation.class_names import data_set
from fastdet.core.evaluation.panoptic_utils import segments_of
from fastdet.core.evaluation.report import say, text_table
from fastdet.mmcv.fileio import dump, load
from fastdet.mmcv.image import imwrite

from .builder import DATASETS
from .coco import CocoDataset

__all__ = ["CocoPanopticDataset", "parse_pq_results", "print_panoptic_table"]

_QUALITIES = ("pq", "sq", "rq")
#: The parts that are judged, and what their numbers end in.
_PARTS = {"All": "", "Things": "_th", "Stuff": "_st"}


def __getattr__(name: str) -> Any:
    """``COCOPanoptic``, which MMDetection has here, once somebody asks: it needs pycocotools."""
    if name != "COCOPanoptic":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .api_wrappers.coco_api import COCOPanoptic

    return COCOPanoptic


@DATASETS.register_module()
class CocoPanopticDataset(CocoDataset):
    """COCO with panoptic segmentation: things and stuff in one map.

    Args:
        ins_ann_file: COCO's annotations of the things, for the metrics ``bbox``, ``segm`` and
            ``proposal``.
        seg_prefix: the folder of the PNGs.
        ann_file, pipeline, classes, data_root, img_prefix, proposal_file, test_mode,
            filter_empty_gt, file_client_args: see :class:`CustomDataset`.
    """

    CLASSES = data_set("coco_panoptic")
    THING_CLASSES = data_set("coco_panoptic", "thing_classes")
    STUFF_CLASSES = data_set("coco_panoptic", "stuff_classes")
    PALETTE = data_set("coco_panoptic", "palette")
    METRICS = ("PQ", "pq", "bbox", "segm", "proposal")

    def __init__(self, ann_file: str, pipeline: list[Any], ins_ann_file: str | None = None,
                 classes: Any = None, data_root: str | None = None, img_prefix: str = "",
                 seg_prefix: str | None = None, proposal_file: str | None = None,
                 test_mode: bool = False, filter_empty_gt: bool = True,
                 file_client_args: dict[str, Any] = dict(backend="disk")) -> None:
        super().__init__(ann_file, pipeline, classes=classes, data_root=data_root,
                         img_prefix=img_prefix, seg_prefix=seg_prefix,
                         proposal_file=proposal_file, test_mode=test_mode,
                         filter_empty_gt=filter_empty_gt, file_client_args=file_client_args)
        self.ins_ann_file = ins_ann_file

    def load_annotations(self, ann_file: str) -> list[dict[str, Any]]:
        """What the file holds of every image."""
        from .api_wrappers.coco_api import COCOPanoptic, read_coco

        self.coco = read_coco(ann_file, COCOPanoptic)
        self.cat_ids = self.coco.get_cat_ids()
        self.cat2label = {cat_id: i for i, cat_id in enumerate(self.cat_ids)}
        self.categories = self.coco.cats
        self.img_ids = self.coco.get_img_ids()
        infos = self.coco.load_imgs(self.img_ids)
        for info in infos:
            info["filename"] = info["file_name"]
            info["segm_file"] = info["filename"].replace("jpg", "png")
        return infos

    def get_ann_info(self, idx: int) -> dict[str, Any]:
        """Annotations of an image: ``bboxes`` and ``labels`` of things, ``bboxes_ignore``,
        ``seg_map``, and as ``masks`` ``id``, ``category`` and ``is_thing`` of every segment."""
        own = self.data_infos[idx]["id"]
        segments = [s for s in self._annotations(idx) if s["image_id"] == own]
        return self._parse_ann_info(self.data_infos[idx], segments)

    def _parse_ann_info(self, img_info: dict[str, Any],
                        ann_info: list[dict[str, Any]]) -> dict[str, Any]:
        boxes, labels, ignored, segments = [], [], [], []
        for ann in ann_info:
            x, y, w, h = ann["bbox"]
            if ann["area"] <= 0 or w < 1 or h < 1:
                continue
            label = self.cat2label[ann["category_id"]]
            thing = self.categories[ann["category_id"]]["isthing"]
            if thing and ann.get("iscrowd", False):
                ignored.append([x, y, x + w, y + h])
                thing = False
            elif thing:
                boxes.append([x, y, x + w, y + h])
                labels.append(label)
            segments.append(dict(id=ann["id"], category=label, is_thing=thing))
        return dict(bboxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
                    labels=np.array(labels, dtype=np.int64),
                    bboxes_ignore=np.array(ignored, dtype=np.float32).reshape(-1, 4),
                    masks=segments, seg_map=img_info["segm_file"])

    def _filter_imgs(self, min_size: int = 32) -> list[int]:
        """Images that are large enough and, if asked for, have a thing."""
        things = {cat_id for cat_id, cat in self.categories.items() if cat["isthing"]}
        with_things = {s["image_id"] for segments in self.coco.anns.values() for s in segments
                       if s["category_id"] in things}
        valid = [i for i, info in enumerate(self.data_infos)
                 if not (self.filter_empty_gt and self.img_ids[i] not in with_things)
                 and min(info["width"], info["height"]) >= min_size]
        self.img_ids = [self.img_ids[i] for i in valid]
        return valid

    def _pan2json(self, results: list[np.ndarray], outfile_prefix: str) -> dict[str, Any]:
        """Write the PNGs beside ``outfile_prefix``; what COCO's JSON says of them."""
        folder = osp.join(osp.dirname(outfile_prefix), "panoptic")
        records = []
        for img_id, info, pan in zip(self.img_ids, self.data_infos, results):
            png, found = segments_of(pan, len(self.CLASSES))
            segments = []
            for segment, label, area in found:
                category = self.cat_ids[label]
                segments.append(dict(id=segment, category_id=category, area=area,
                                     isthing=self.categories[category]["isthing"]))
            imwrite(png[..., ::-1], osp.join(folder, info["segm_file"]))
            records.append(dict(image_id=img_id, segments_info=segments,
                                file_name=info["segm_file"]))
        return dict(annotations=records)

    def results2json(self, results: Any, outfile_prefix: str) -> dict[str, str]:
        """Write results as COCO's server takes them.

        Args:
            results: of each image a dict of ``pan_results`` [H, W], a pixel the class plus 1000
                times the instance, and of ``ins_results``, boxes and masks of the things.
            outfile_prefix: the files are ``PREFIX.panoptic.json`` and so on; PNGs go to the folder
                ``panoptic`` beside them.

        Returns:
            The file of each kind: ``panoptic``, ``bbox``, ``segm``, ``proposal``.
        """
        files = {}
        if "pan_results" in results[0]:
            files["panoptic"] = f"{outfile_prefix}.panoptic.json"
            dump(self._pan2json([r["pan_results"] for r in results], outfile_prefix),
                 files["panoptic"])
        if "ins_results" in results[0]:
            files.update(super().results2json([r["ins_results"] for r in results],
                                              outfile_prefix))
        return files

    def evaluate_pan_json(self, result_files: dict[str, str], outfile_prefix: str,
                          logger: Any = None, classwise: bool = False,
                          nproc: int = 32) -> dict[str, Any]:
        """Panoptic quality of files that are written.

        Args:
            result_files, outfile_prefix: of :meth:`results2json`.
            logger: where tables go.
            classwise: also show every class.
            nproc: threads.

        Raises:
            ValueError: an image has no prediction.
        """
        from .api_wrappers.panoptic_evaluation import pq_compute_multi_core

        predicted = {p["image_id"]: p for p in load(result_files["panoptic"])["annotations"]}
        pairs = []
        for img_id, segments in self.coco.img_ann_map.items():
            if img_id not in predicted:
                raise ValueError(f"there is no prediction for the image with id {img_id}")
            truth = dict(image_id=img_id, segments_info=segments,
                         file_name=self.coco.imgs[img_id]["segm_file"])
            pairs.append((truth, predicted[img_id]))
        stat = pq_compute_multi_core(
            pairs, str(self.seg_prefix), osp.join(osp.dirname(outfile_prefix), "panoptic"),
            self.categories, self.file_client, nproc=nproc)
        found: dict[str, Any] = {}
        for name, isthing in (("All", None), ("Things", True), ("Stuff", False)):
            found[name], each = stat.pq_average(self.categories, isthing)
            if isthing is None:
                found["classwise"] = each
        print_panoptic_table(found, dict(zip(self.CLASSES, found["classwise"].values()))
                             if classwise else None, logger)
        scores: dict[str, Any] = parse_pq_results(found)
        scores["PQ_copypaste"] = " ".join(f"{v:.3f}" for v in scores.values())
        return scores

    def evaluate(self, results: Any, metric: Any = "PQ",  # type: ignore[override]
                 logger: Any = None, jsonfile_prefix: str | None = None, classwise: bool = False,
                 nproc: int = 32, **kwargs: Any) -> dict[str, Any]:
        """Panoptic quality, and COCO's numbers of the things.

        Args:
            results: see :meth:`results2json`.
            metric: ``'PQ'`` (or ``'pq'``), ``'bbox'``, ``'segm'``, ``'proposal'``, or several.
            logger: where tables go.
            jsonfile_prefix: keep the results' files there.
            classwise: also show every class.
            nproc: threads of the panoptic quality.
            kwargs: of :meth:`evaluate_det_segm`.

        Returns:
            ``PQ``, ``SQ``, ``RQ`` in per cent, the same ``_th`` of things and ``_st`` of stuff;
            ``bbox_mAP`` and so on.

        Raises:
            KeyError: a metric is unknown.
            ValueError: results or ``ins_ann_file`` are missing for a metric.
        """
        metrics = ["PQ" if name == "pq" else name for name in self._metrics(metric)]
        files, folder = self.format_results(results, jsonfile_prefix)
        prefix = jsonfile_prefix if folder is None else osp.join(folder.name, "results")
        found: dict[str, Any] = {}
        try:
            if "PQ" in metrics:
                if "panoptic" not in files:
                    raise ValueError("PQ needs results with 'pan_results', and there are none")
                found.update(self.evaluate_pan_json(files, str(prefix), logger, classwise, nproc))
                metrics.remove("PQ")
            if metrics:
                found.update(self._evaluate_things(results, files, metrics, logger, classwise,
                                                   **kwargs))
        finally:
            if folder is not None:
                folder.cleanup()
        return found

    def _evaluate_things(self, results: Any, files: dict[str, str], metrics: list[str],
                         logger: Any, classwise: bool, **kwargs: Any) -> dict[str, Any]:
        from .api_wrappers.coco_api import read_coco

        if "ins_results" not in results[0]:
            raise ValueError(f"{', '.join(metrics)} need results with 'ins_results', and there "
                             "are none")
        if self.ins_ann_file is None:
            raise ValueError(f"{', '.join(metrics)} need ins_ann_file, COCO's annotations of the "
                             "things")
        truth = read_coco(self.ins_ann_file)
        every = self.cat_ids
        self.cat_ids = truth.get_cat_ids(cat_names=self.THING_CLASSES)
        try:
            return self.evaluate_det_segm(results, files, truth, metrics, logger, classwise,
                                          **kwargs)
        finally:
            self.cat_ids = every


def parse_pq_results(pq_results: dict[str, Any]) -> dict[str, float]:
    """Qualities of all, of things and of stuff in per cent, by their names: ``PQ_th``."""
    return {f"{quality.upper()}{end}": 100 * pq_results[part][quality]
            for part, end in _PARTS.items() for quality in _QUALITIES}


def print_panoptic_table(pq_results: dict[str, Any],
                         classwise_results: dict[str, Any] | None = None,
                         logger: Any = None) -> None:
    """Show panoptic qualities as a table, and those of every class as another."""
    def cells(values: dict[str, float]) -> list[str]:
        return [f"{100 * values[quality]:0.3f}" for quality in _QUALITIES]

    header = ["PQ", "SQ", "RQ"]
    rows = [[part, *cells(pq_results[part]), pq_results[part]["n"]] for part in _PARTS]
    say("Panoptic Evaluation Results:\n" + text_table(["", *header, "categories"], rows), logger)
    if classwise_results is not None:
        flat = [cell for name, values in classwise_results.items()
                for cell in (name, *cells(values))]
        columns = min(8, len(flat))
        lines = list(itertools.zip_longest(*[flat[i::columns] for i in range(columns)]))
        say("Classwise Panoptic Evaluation Results:\n"
            + text_table(["category", *header] * (columns // 4), lines), logger)
