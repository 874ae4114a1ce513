"""Panoptic quality (Kirillov et al., arXiv:1801.00868, section 4)."""

from __future__ import annotations

import os.path as osp
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastdet.core.evaluation.panoptic_utils import VOID, rgb2id
from fastdet.mmcv.fileio import FileClient
from fastdet.mmcv.image import imfrombytes

__all__ = ["PQStat", "pq_compute_multi_core", "pq_compute_single_core"]

#: Above every id of a segment, which has three bytes.
_IDS = 256 ** 3

Pair = tuple[dict[str, Any], dict[str, Any]]


@dataclass
class _Counts:
    """Matched segments of a class, the sum of their overlaps, and segments left over."""

    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0


@dataclass
class PQStat:
    """Counts of every class, by its id."""

    per_class: dict[int, _Counts] = field(default_factory=lambda: defaultdict(_Counts))

    def __getitem__(self, category: int) -> _Counts:
        return self.per_class[category]

    def __iadd__(self, other: PQStat) -> PQStat:
        for category, counts in other.per_class.items():
            own = self[category]
            own.iou += counts.iou
            own.tp += counts.tp
            own.fp += counts.fp
            own.fn += counts.fn
        return self

    def pq_average(self, categories: dict[int, dict[str, Any]], isthing: bool | None
                   ) -> tuple[dict[str, Any], dict[int, dict[str, float]]]:
        """Means over the classes that occur.

        Args:
            categories: of COCO's format, by id.
            isthing: things or stuff alone.

        Returns:
            ``pq`` (the product of the others), ``sq`` (segmentation: the mean overlap of matched
            segments), ``rq`` (recognition: F1) and ``n``, the number of classes that occur; and
            the three of each class.
        """
        each = {}
        occur = []
        for category, info in categories.items():
            if isthing is not None and isthing != (info["isthing"] == 1):
                continue
            c = self[category]
            if not c.tp + c.fp + c.fn:
                each[category] = dict(pq=0.0, sq=0.0, rq=0.0)
                continue
            all_of_it = c.tp + 0.5 * c.fp + 0.5 * c.fn
            each[category] = dict(pq=c.iou / all_of_it, sq=c.iou / c.tp if c.tp else 0.0,
                                  rq=c.tp / all_of_it)
            occur.append(each[category])
        n = len(occur)
        mean: dict[str, Any] = {key: sum(one[key] for one in occur) / n if n else 0.0
                                for key in ("pq", "sq", "rq")}
        return {**mean, "n": n}, each


def _by_id(segments: Iterable[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {segment["id"]: dict(segment) for segment in segments}


def _read(client: FileClient, path: str) -> np.ndarray:
    return rgb2id(imfrombytes(client.get(path), flag="color", channel_order="rgb"))


def _count(stat: PQStat, pair: Pair, gt_ids: np.ndarray, pred_ids: np.ndarray,
           categories: dict[int, Any]) -> None:
    """Add the counts of one image, given the segments' ids [H, W]."""
    truth, prediction = pair
    image = truth["image_id"]
    gts, preds = _by_id(truth["segments_info"]), _by_id(prediction["segments_info"])
    if gt_ids.shape != pred_ids.shape:
        raise ValueError(f"image {image}: the result is {pred_ids.shape}, and the ground truth "
                         f"{gt_ids.shape}")
    codes, sizes = np.unique(gt_ids.astype(np.int64) * _IDS + pred_ids, return_counts=True)
    shared = {divmod(int(code), _IDS): int(size) for code, size in zip(codes, sizes)}
    areas: dict[int, int] = defaultdict(int)
    for (_, pred), size in shared.items():
        areas[pred] += size
    for pred in areas:
        if pred != VOID and pred not in preds:
            raise KeyError(f"image {image}: segment {pred} is in the PNG and not in the JSON")
    for pred, info in preds.items():
        if pred not in areas:
            raise KeyError(f"image {image}: segment {pred} is in the JSON and not in the PNG")
        if info["category_id"] not in categories:
            raise KeyError(f"image {image}: segment {pred} has the unknown category "
                           f"{info['category_id']}")

    matched_gts, matched_preds = set(), set()
    for (gt, pred), both in shared.items():
        a, b = gts.get(gt), preds.get(pred)
        if a is None or b is None or a.get("iscrowd", 0) == 1 \
                or a["category_id"] != b["category_id"]:
            continue
        union = areas[pred] + a["area"] - both - shared.get((VOID, pred), 0)
        if both / union > 0.5:  # at most one segment can
            stat[a["category_id"]].tp += 1
            stat[a["category_id"]].iou += both / union
            matched_gts.add(gt)
            matched_preds.add(pred)
    crowds = {}
    for gt, a in gts.items():
        if gt not in matched_gts:
            if a.get("iscrowd", 0) == 1:
                crowds[a["category_id"]] = gt
            else:
                stat[a["category_id"]].fn += 1
    for pred, b in preds.items():
        if pred not in matched_preds:
            # What lies for the greater part in nothing, or in a crowd of its class, is not wrong.
            unjudged = shared.get((VOID, pred), 0)
            if b["category_id"] in crowds:
                unjudged += shared.get((crowds[b["category_id"]], pred), 0)
            if unjudged / areas[pred] <= 0.5:
                stat[b["category_id"]].fp += 1


def pq_compute_single_core(proc_id: int, annotation_set: Iterable[Pair], gt_folder: str,
                           pred_folder: str, categories: dict[int, Any], file_client: Any = None,
                           print_log: bool = False) -> PQStat:
    """Count matched, missed and wrong segments of images.

    Args:
        proc_id: a number for the log.
        annotation_set: of each image a pair of true and predicted segments, each with
            ``image_id``, ``file_name`` and ``segments_info``.
        gt_folder: of the PNGs of the ground truth.
        pred_folder: of those of the prediction.
        categories: of COCO's format, by id.
        file_client: reads the ground truth; from the disk by default.
        print_log: say how far it is, every 100 images.

    Raises:
        KeyError: a segment is in a prediction's PNG and not in its JSON, or the reverse, or has an
            unknown category.
        ValueError: a prediction has another size than its image.
    """
    disk = FileClient(backend="disk")
    stat = PQStat()
    for done, pair in enumerate(annotation_set):
        if print_log and done % 100 == 0:
            print(f"Core: {proc_id}, {done} images processed")
        gt = _read(file_client or disk, osp.join(gt_folder, pair[0]["file_name"]))
        pred = _read(disk, osp.join(pred_folder, pair[1]["file_name"]))
        _count(stat, pair, gt, pred, categories)
    return stat


def pq_compute_multi_core(matched_annotations_list: list[Pair], gt_folder: str, pred_folder: str,
                          categories: dict[int, Any], file_client: Any = None,
                          nproc: int = 32) -> PQStat:
    """:func:`pq_compute_single_core` in several threads: reading and sorting release Python's lock.

    Args:
        matched_annotations_list, gt_folder, pred_folder, categories, file_client: see there.
        nproc: the number of threads.
    """
    workers = max(1, min(nproc, len(matched_annotations_list)))
    stat = PQStat()
    with ThreadPoolExecutor(workers) as pool:
        parts = [pool.submit(pq_compute_single_core, i, matched_annotations_list[i::workers],
                             gt_folder, pred_folder, categories, file_client)
                 for i in range(workers)]
        for part in parts:
            stat += part.result()
    return stat
