"""Average precision of Pascal VOC, ImageNet and Open Images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .bbox_overlaps import bbox_overlaps
from .class_names import get_classes
from .report import say, text_table

__all__ = ["average_precision", "eval_map", "print_map_summary", "tpfp_default", "tpfp_imagenet",
           "tpfp_openimages"]

Ranges = Sequence[tuple[float, float]] | None


def average_precision(recalls: np.ndarray, precisions: np.ndarray, mode: str = "area") -> Any:
    """Average precision.

    Args:
        recalls: [n], or [scales, n].
        precisions: the same shape.
        mode: ``'area'`` under the curve of the best precision at this recall or a higher one, or
            ``'11points'``, its mean at recalls 0, 0.1 ... 1.

    Returns:
        One number, or [scales].
    """
    single = recalls.ndim == 1
    recalls, precisions = np.atleast_2d(recalls), np.atleast_2d(precisions)
    if recalls.shape != precisions.shape:
        raise ValueError(f"recalls {recalls.shape} and precisions {precisions.shape} differ")
    scales = len(recalls)
    ap = np.zeros(scales, dtype=np.float32)
    if mode == "area":
        zeros, ones = np.zeros((scales, 1), recalls.dtype), np.ones((scales, 1), recalls.dtype)
        x = np.hstack((zeros, recalls, ones))
        y = np.hstack((zeros, precisions, zeros))
        y = np.maximum.accumulate(y[:, ::-1], axis=1)[:, ::-1]
        for i in range(scales):
            at = np.flatnonzero(x[i, 1:] != x[i, :-1])
            ap[i] = np.sum((x[i, at + 1] - x[i, at]) * y[i, at + 1])
    elif mode == "11points":
        for i in range(scales):
            for thr in np.arange(0, 1 + 1e-3, 0.1):
                reached = precisions[i, recalls[i] >= thr]
                ap[i] += reached.max() if reached.size else 0
        ap /= 11
    else:
        raise ValueError(f"mode must be area or 11points, got {mode!r}")
    return ap[0] if single else ap


def _areas(boxes: np.ndarray, legacy: bool) -> np.ndarray:
    extra = 1 if legacy else 0
    return (boxes[:, 2] - boxes[:, 0] + extra) * (boxes[:, 3] - boxes[:, 1] + extra)


def _within(areas: np.ndarray, span: tuple[float | None, float | None]) -> np.ndarray:
    low, high = span
    return np.ones(len(areas), bool) if low is None else (areas >= low) & (areas < high)


def _begin(dets: np.ndarray, gt_bboxes: np.ndarray, gt_bboxes_ignore: np.ndarray | None,
           area_ranges: Any, legacy: bool) -> tuple[Any, ...]:
    """An image's boxes [n, 4], which of them to ignore, ranges of areas, areas of the detections,
    and right and wrong ones [scales, m]: zeros yet, unless there is no box to find."""
    ignore = np.zeros((0, 4), np.float32) if gt_bboxes_ignore is None else gt_bboxes_ignore
    ignored = np.concatenate((np.zeros(len(gt_bboxes), bool), np.ones(len(ignore), bool)))
    gts = np.vstack((gt_bboxes.reshape(-1, 4), ignore.reshape(-1, 4)))
    spans = [(None, None)] if area_ranges is None else area_ranges
    tp = np.zeros((len(spans), len(dets)), dtype=np.float32)
    fp = np.zeros_like(tp)
    areas = _areas(dets, legacy)
    if not len(gts):
        for k, span in enumerate(spans):
            fp[k, _within(areas, span)] = 1
    return gts, ignored, spans, areas, tp, fp


def tpfp_default(det_bboxes: np.ndarray, gt_bboxes: np.ndarray,
                 gt_bboxes_ignore: np.ndarray | None = None, iou_thr: float = 0.5,
                 area_ranges: Any = None, use_legacy_coordinate: bool = False,
                 **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Which detections of an image are right, by Pascal VOC's rule.

    A detection belongs to the true box that it overlaps most; the best-scored one of a box is
    right. What belongs to an ignored box, or matches nothing and is of another size, counts
    neither way.

    Args:
        det_bboxes: [m, 5].
        gt_bboxes: [n, 4].
        gt_bboxes_ignore: [k, 4].
        iou_thr: from which overlap on.
        area_ranges: pairs of least and greatest area, a scale each.
        use_legacy_coordinate: see :func:`bbox_overlaps`.

    Returns:
        Right and wrong ones, [scales, m] of 0 and 1.
    """
    gts, ignored, spans, det_areas, tp, fp = _begin(det_bboxes, gt_bboxes, gt_bboxes_ignore,
                                                    area_ranges, use_legacy_coordinate)
    if not len(gts):
        return tp, fp
    ious = bbox_overlaps(det_bboxes, gts, use_legacy_coordinate=use_legacy_coordinate)
    best, nearest = ious.max(axis=1), ious.argmax(axis=1)
    order = np.argsort(-det_bboxes[:, -1])
    gt_areas = _areas(gts, use_legacy_coordinate)
    for k, span in enumerate(spans):
        outside = ~_within(gt_areas, span)
        taken = np.zeros(len(gts), bool)
        inside = _within(det_areas, span)
        for i in order:
            gt = nearest[i]
            if best[i] >= iou_thr:
                if ignored[gt] or outside[gt]:
                    continue
                (fp if taken[gt] else tp)[k, i] = 1
                taken[gt] = True
            elif inside[i]:
                fp[k, i] = 1
    return tp, fp


def tpfp_imagenet(det_bboxes: np.ndarray, gt_bboxes: np.ndarray,
                  gt_bboxes_ignore: np.ndarray | None = None, default_iou_thr: float = 0.5,
                  area_ranges: Any = None, use_legacy_coordinate: bool = False,
                  **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
    """:func:`tpfp_default` by ImageNet's rule: small boxes need less overlap, and a detection
    takes the best of the boxes that are still free."""
    gts, ignored, spans, det_areas, tp, fp = _begin(det_bboxes, gt_bboxes, gt_bboxes_ignore,
                                                    area_ranges, use_legacy_coordinate)
    if not len(gts):
        return tp, fp
    # In float32 throughout, as the overlaps are: their comparison decides.
    ious = bbox_overlaps(det_bboxes, gts - 1, use_legacy_coordinate=use_legacy_coordinate)
    extra = 1 if use_legacy_coordinate else 0
    w, h = gts[:, 2] - gts[:, 0] + extra, gts[:, 3] - gts[:, 1] + extra
    thrs = np.minimum((w * h) / ((w + 10.0) * (h + 10.0)), default_iou_thr)
    order = np.argsort(-det_bboxes[:, -1])
    for k, span in enumerate(spans):
        outside = ~_within(w * h, span)
        taken = np.zeros(len(gts), bool)
        inside = _within(det_areas, span)
        for i in order:
            free = ~taken & (ious[i] >= thrs)
            gt = int(np.argmax(np.where(free, ious[i], -1))) if free.any() else -1
            if gt >= 0:
                taken[gt] = True
                if not (ignored[gt] or outside[gt]):
                    tp[k, i] = 1
            elif inside[i]:
                fp[k, i] = 1
    return tp, fp


def tpfp_openimages(det_bboxes: np.ndarray, gt_bboxes: np.ndarray,
                    gt_bboxes_ignore: np.ndarray | None = None, iou_thr: float = 0.5,
                    area_ranges: Any = None, use_legacy_coordinate: bool = False,
                    gt_bboxes_group_of: np.ndarray | None = None, use_group_of: bool = True,
                    ioa_thr: float = 0.5, **kwargs: Any) -> tuple[np.ndarray, np.ndarray,
                                                                  np.ndarray]:
    """:func:`tpfp_default` by Open Images' rule: a box around a group counts once.

    Args:
        gt_bboxes_group_of: [n] bool, which boxes are around a group.
        use_group_of: whether these are treated apart.
        ioa_thr: the part of a detection that must lie in a group's box.
        det_bboxes, gt_bboxes, gt_bboxes_ignore, iou_thr, area_ranges, use_legacy_coordinate: see
            there.

    Returns:
        Right and wrong ones, and the detections that are left: those in a group are one, the last
        rows.
    """
    group = np.zeros(len(gt_bboxes), bool) if gt_bboxes_group_of is None or not use_group_of \
        else np.asarray(gt_bboxes_group_of, bool).reshape(-1)
    groups = gt_bboxes[group]
    # Where groups are taken apart, MMDetection's overlaps never hold the last pixel.
    tp, fp = tpfp_default(det_bboxes, gt_bboxes[~group], gt_bboxes_ignore, iou_thr, area_ranges,
                          use_legacy_coordinate and not use_group_of)
    if not len(groups) or len(tp) > 1:
        return tp, fp, det_bboxes
    iofs = bbox_overlaps(det_bboxes, groups, mode="iof")
    in_group = (tp[0] == 0) & (iofs.max(axis=1, initial=-1) >= ioa_thr)
    of = iofs.argmax(axis=1)
    # A group that no detection lies in stays as a box of zeros, wrong with the lowest score.
    heads = np.zeros((len(groups), 5), det_bboxes.dtype)
    right = np.zeros((1, len(groups)), tp.dtype)
    for g in np.unique(of[in_group]):
        members = det_bboxes[in_group & (of == g)]
        heads[g], right[0, g] = members[members[:, -1].argmax()], 1
    return (np.concatenate((tp[:, ~in_group], right), axis=1),
            np.concatenate((fp[:, ~in_group], 1 - right), axis=1),
            np.vstack((det_bboxes[~in_group], heads)))


def _of_class(annotations: list[dict[str, Any]], label: int, key: str) -> list[np.ndarray]:
    """Boxes of a class in every image; none where an image has none of the kind."""
    labels, boxes = f"labels{key}", f"bboxes{key}"
    return [a[boxes][a[labels] == label] if a.get(labels) is not None
            else np.zeros((0, 4), np.float32) for a in annotations]


def eval_map(det_results: list[list[np.ndarray]], annotations: list[dict[str, Any]],
             scale_ranges: Ranges = None, iou_thr: float = 0.5, ioa_thr: float | None = None,
             dataset: Any = None, logger: Any = None, tpfp_fn: Callable[..., Any] | None = None,
             nproc: int = 4, use_legacy_coordinate: bool = False,
             use_group_of: bool = False) -> tuple[Any, list[dict[str, Any]]]:
    """Mean average precision.

    Args:
        det_results: of each image and class, boxes with scores [n, 5].
        annotations: of each image ``bboxes``, ``labels`` and, where there are any,
            ``bboxes_ignore``, ``labels_ignore`` and ``gt_is_group_ofs``.
        scale_ranges: pairs of least and greatest side, a mean each.
        iou_thr: the overlap of a right detection.
        ioa_thr: see :func:`tpfp_openimages`.
        dataset: a name (``'voc07'`` averages at 11 points, ``'det'`` and ``'vid'`` take
            ImageNet's rule) or the classes' names for the table.
        logger: where the table goes; ``'silent'`` shows none.
        tpfp_fn: the rule instead.
        nproc: not used: the arithmetic is short.
        use_legacy_coordinate: see :func:`bbox_overlaps`.
        use_group_of: take Open Images' rule.

    Returns:
        The mean over the classes that occur (a list of one for each scale), and of each class
        ``num_gts``, ``num_dets``, ``recall``, ``precision``, ``ap``.
    """
    if len(det_results) != len(annotations):
        raise ValueError(f"there are results of {len(det_results)} images and annotations of "
                         f"{len(annotations)}")
    spans = None if scale_ranges is None else [(lo**2, hi**2) for lo, hi in scale_ranges]
    scales = 1 if spans is None else len(spans)
    rule = tpfp_fn or (tpfp_imagenet if dataset in ("det", "vid") else
                       tpfp_openimages if use_group_of or dataset in ("oid_challenge", "oid_v6")
                       else tpfp_default)
    results = []
    for label in range(len(det_results[0])):
        dets = [image[label] for image in det_results]
        gts = _of_class(annotations, label, "")
        ignored = _of_class(annotations, label, "_ignore")
        found: list[Any] = []
        for i, args in enumerate(zip(dets, gts, ignored)):
            kwargs: dict[str, Any] = {}
            if rule is tpfp_openimages:
                groups = annotations[i].get("gt_is_group_ofs")
                kwargs = dict(use_group_of=use_group_of, ioa_thr=ioa_thr or iou_thr,
                              gt_bboxes_group_of=None if groups is None
                              else groups[annotations[i]["labels"] == label])
            found.append(rule(*args, iou_thr, spans, use_legacy_coordinate, **kwargs))
        tp, fp = (np.hstack([f[k] for f in found]) for k in (0, 1))
        kept = [f[2] if len(f) > 2 else d for f, d in zip(found, dets)]
        num_gts = np.zeros(scales, dtype=int)
        for boxes in gts:
            areas = _areas(boxes, use_legacy_coordinate)
            num_gts += [len(boxes)] if spans is None else [_within(areas, s).sum() for s in spans]
        every = np.vstack(kept)
        order = np.argsort(-every[:, -1])
        tp, fp = np.cumsum(tp[:, order], axis=1), np.cumsum(fp[:, order], axis=1)
        eps = np.finfo(np.float32).eps
        recalls = tp / np.maximum(num_gts[:, None], eps)
        precisions = tp / np.maximum(tp + fp, eps)
        if spans is None:
            recalls, precisions, num_gts = recalls[0], precisions[0], num_gts.item()
        ap = average_precision(recalls, precisions, "11points" if dataset == "voc07" else "area")
        results.append({"num_gts": num_gts, "num_dets": len(every), "recall": recalls,
                        "precision": precisions, "ap": ap})
    mean_ap: Any
    if spans is None:
        aps = [r["ap"] for r in results if r["num_gts"] > 0]
        mean_ap = np.array(aps).mean().item() if aps else 0.0
    else:
        ap, num = (np.vstack([r[k] for r in results]) for k in ("ap", "num_gts"))
        mean_ap = [ap[num[:, i] > 0, i].mean() if (num[:, i] > 0).any() else 0.0
                   for i in range(scales)]
    print_map_summary(mean_ap, results, dataset, spans, logger=logger)
    return mean_ap, results


def print_map_summary(mean_ap: Any, results: list[dict[str, Any]], dataset: Any = None,
                      scale_ranges: Any = None, logger: Any = None) -> None:
    """Show what :func:`eval_map` found as a table for each scale."""
    if logger == "silent":
        return
    scales = len(results[0]["ap"]) if isinstance(results[0]["ap"], np.ndarray) else 1
    names = [str(i) for i in range(len(results))] if dataset is None else \
        get_classes(dataset) if isinstance(dataset, str) else list(dataset)
    means = mean_ap if isinstance(mean_ap, list) else [mean_ap]
    for i in range(scales):
        if scale_ranges is not None:
            say(f"Scale range {scale_ranges[i]}", logger)
        rows = []
        for name, r in zip(names, results):
            recall = np.atleast_2d(r["recall"])[i]
            ap = np.atleast_1d(r["ap"])[i]
            rows.append([name, np.atleast_1d(r["num_gts"])[i], r["num_dets"],
                         f"{recall[-1] if recall.size else 0:.3f}", f"{ap:.3f}"])
        rows.append(["mAP", "", "", "", f"{means[i]:.3f}"])
        say("\n" + text_table(["class", "gts", "dets", "recall", "ap"], rows, footer=True), logger)
