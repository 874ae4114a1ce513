"""Average precision as Pascal VOC, ImageNet and Open Images define it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .bbox_overlaps import areas, bbox_overlaps
from .class_names import get_classes
from .tables import Logger, table, tell

__all__ = ["average_precision", "eval_map", "get_cls_group_ofs", "get_cls_results",
           "print_map_summary", "tpfp_default", "tpfp_imagenet", "tpfp_openimages"]

#: Areas that a range holds, from the first to below the second; ``None`` holds all.
Ranges = Sequence[tuple[float, float] | None]


def average_precision(recalls: np.ndarray, precisions: np.ndarray, mode: str = "area") -> Any:
    """The area under the curve of precision over recall.

    Args:
        recalls: [n] or [scales, n], ascending.
        precisions: likewise.
        mode: ``'area'``, or ``'11points'``: the mean at eleven recalls (Pascal VOC 2007).

    Returns:
        A number, or [scales].

    Raises:
        ValueError: the mode is another, or shapes differ.
    """
    if mode not in ("area", "11points"):
        raise ValueError(f"average_precision: mode must be 'area' or '11points', got {mode!r}")
    one = recalls.ndim == 1
    recalls, precisions = np.atleast_2d(recalls), np.atleast_2d(precisions)
    if recalls.shape != precisions.shape or recalls.ndim != 2:
        raise ValueError("average_precision: recalls and precisions must have one shape [n] or "
                         f"[scales, n], got {recalls.shape} and {precisions.shape}")
    ap = np.zeros(len(recalls), dtype=np.float32)
    if mode == "area":
        pad = np.zeros((len(recalls), 1), dtype=recalls.dtype)
        recall = np.concatenate([pad, recalls, pad + 1], axis=1)
        # The precision at a recall is the highest at this or any greater one.
        best = np.concatenate([pad, precisions, pad], axis=1)
        best = np.maximum.accumulate(best[:, ::-1], axis=1)[:, ::-1]
        ap[:] = (np.diff(recall, axis=1) * best[:, 1:]).sum(axis=1)
    else:
        for i, (recall, precision) in enumerate(zip(recalls, precisions)):
            ap[i] = sum(precision[recall >= at].max(initial=0.0)
                        for at in np.arange(0, 1 + 1e-3, 0.1)) / 11
    return ap[0] if one else ap


# ------------------------------------------------------------------ which detections are right
def _in_range(boxes: np.ndarray, area: tuple[float, float] | None, legacy: bool) -> np.ndarray:
    if area is None:
        return np.ones(len(boxes), dtype=bool)
    mine = areas(boxes, legacy)
    return (mine >= area[0]) & (mine < area[1])


def _with_ignored(gt_bboxes: np.ndarray, gt_bboxes_ignore: Any) -> tuple[np.ndarray, np.ndarray]:
    """Gts and regions to ignore in a row, and which are regions to ignore."""
    ignore = np.zeros((0, 4)) if gt_bboxes_ignore is None else gt_bboxes_ignore.reshape(-1, 4)
    flags = np.arange(len(gt_bboxes) + len(ignore)) >= len(gt_bboxes)
    return np.concatenate([gt_bboxes.reshape(-1, 4), ignore]), flags


def _judged(dets: np.ndarray, gts: np.ndarray, ignored: np.ndarray, enough: np.ndarray,
            ious: np.ndarray, area_ranges: Ranges | None,
            legacy: bool) -> tuple[np.ndarray, np.ndarray]:
    """What :func:`tpfp_default` returns, of overlaps [m, n] and whether they are enough."""
    ranges: Ranges = [None] if area_ranges is None else area_ranges
    tp, fp = (np.zeros((len(ranges), len(dets)), dtype=np.float32) for _ in range(2))
    own = ious.argmax(axis=1) if len(gts) else np.zeros(len(ious), dtype=int)
    hit = enough.any(axis=1)
    for row, area in enumerate(ranges):
        fp[row] = ~hit & _in_range(dets, area, legacy)
        dull: np.ndarray = ignored | ~_in_range(gts, area, legacy)
        covered = np.zeros(len(gts), dtype=bool)
        for i in np.argsort(-dets[:, -1]):
            if hit[i] and not dull[own[i]]:
                (fp if covered[own[i]] else tp)[row, i] = 1
                covered[own[i]] = True
    return tp, fp


def tpfp_default(det_bboxes: np.ndarray, gt_bboxes: np.ndarray, gt_bboxes_ignore: Any = None,
                 iou_thr: float = 0.5, area_ranges: Ranges | None = None,
                 use_legacy_coordinate: bool = False,
                 **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Which detections of one image and class are right, and which are wrong.

    A detection belongs to the gt that it overlaps most. The best one of a gt is right, others of
    it are wrong; those of what is to be ignored are neither.

    Args:
        det_bboxes: [m, 5], with scores.
        gt_bboxes: [n, 4].
        gt_bboxes_ignore: [k, 4].
        iou_thr: the overlap that a detection needs.
        area_ranges: gts and unmatched detections outside a range are ignored in its row.
        use_legacy_coordinate: boxes hold their last pixel, too.
        kwargs: not used.

    Returns:
        Two arrays [ranges, m] of zeros and ones.
    """
    gts, ignored = _with_ignored(gt_bboxes, gt_bboxes_ignore)
    ious = bbox_overlaps(det_bboxes[:, :4], gts, use_legacy_coordinate=use_legacy_coordinate)
    return _judged(det_bboxes, gts, ignored, ious >= iou_thr, ious, area_ranges,
                   use_legacy_coordinate)


def tpfp_imagenet(det_bboxes: np.ndarray, gt_bboxes: np.ndarray, gt_bboxes_ignore: Any = None,
                  default_iou_thr: float = 0.5, area_ranges: Ranges | None = None,
                  use_legacy_coordinate: bool = False,
                  **kwargs: Any) -> tuple[np.ndarray, np.ndarray]:
    """As :func:`tpfp_default`, by the rules of ILSVRC.

    A detection takes the gt that it overlaps most of those that are not taken, and small gts need
    less overlap: that of a box ten pixels larger each way.

    Args:
        det_bboxes: [m, 5], with scores.
        gt_bboxes: [n, 4].
        gt_bboxes_ignore: [k, 4].
        default_iou_thr: the overlap that large gts need.
        area_ranges: see :func:`tpfp_default`.
        use_legacy_coordinate: boxes hold their last pixel, too.
        kwargs: not used.
    """
    ranges: Ranges = [None] if area_ranges is None else area_ranges
    gts, ignored = _with_ignored(gt_bboxes, gt_bboxes_ignore)
    tp, fp = (np.zeros((len(ranges), len(det_bboxes)), dtype=np.float32) for _ in range(2))
    # MMDetection moves the gts, and only them, by a pixel here.
    ious = bbox_overlaps(det_bboxes[:, :4], gts - 1, use_legacy_coordinate=use_legacy_coordinate)
    extra = 1.0 if use_legacy_coordinate else 0.0
    width, height = gts[:, 2] - gts[:, 0] + extra, gts[:, 3] - gts[:, 1] + extra
    needed = np.minimum(width * height / ((width + 10.0) * (height + 10.0)), default_iou_thr)
    for row, area in enumerate(ranges):
        counts = _in_range(det_bboxes, area, use_legacy_coordinate)
        dull = ignored | ~_in_range(gts, area, use_legacy_coordinate)
        covered = np.zeros(len(gts), dtype=bool)
        for i in np.argsort(-det_bboxes[:, -1]):
            free = np.where(~covered & (ious[i] >= needed), ious[i], -1.0)
            if free.max(initial=-1.0) < 0:
                fp[row, i] = counts[i]
                continue
            own = free.argmax()
            covered[own] = True
            tp[row, i] = not dull[own]
    return tp, fp


def tpfp_openimages(det_bboxes: np.ndarray, gt_bboxes: np.ndarray, gt_bboxes_ignore: Any = None,
                    iou_thr: float = 0.5, area_ranges: Ranges | None = None,
                    use_legacy_coordinate: bool = False, gt_bboxes_group_of: Any = None,
                    use_group_of: bool = True, ioa_thr: float = 0.5,
                    **kwargs: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """As :func:`tpfp_default`, by the rules of Open Images.

    What is not right by a single gt may lie in a gt that is a group of objects: all detections of
    a group count as one, which is right and has their highest score.

    Args:
        det_bboxes: [m, 5], with scores.
        gt_bboxes: [n, 4].
        gt_bboxes_ignore: [k, 4].
        iou_thr: the overlap that a detection needs.
        area_ranges: see :func:`tpfp_default`.
        use_legacy_coordinate: boxes hold their last pixel, too.
        gt_bboxes_group_of: [n + k], whether a gt is a group.
        use_group_of: with groups.
        ioa_thr: the share of a detection that lies in its group.
        kwargs: not used.

    Returns:
        Two arrays [ranges, m'] of zeros and ones, and the m' detections that they are of.

    Raises:
        ValueError: groups and several ranges of areas are asked for together.
    """
    gts, ignored = _with_ignored(gt_bboxes, gt_bboxes_ignore)
    if area_ranges is not None and len(area_ranges) > 1:
        raise ValueError("tpfp_openimages: groups are evaluated with one range of areas, got "
                         f"{len(area_ranges)}")
    group = np.zeros(len(gts), dtype=bool)
    if use_group_of and gt_bboxes_group_of is not None and len(gts):
        group = np.asarray(gt_bboxes_group_of, dtype=bool)
    # MMDetection's numbers: the nth single gt, and the nth group, is ignored if the nth of all gts
    # is; and with groups no overlap holds the last pixel.
    alone = gts[~group]
    ious = bbox_overlaps(det_bboxes[:, :4], alone,
                         use_legacy_coordinate=use_legacy_coordinate and not use_group_of)
    tp, fp = _judged(det_bboxes, alone, ignored[:len(alone)], ious >= iou_thr, ious, area_ranges,
                     use_legacy_coordinate)
    inside = bbox_overlaps(det_bboxes[:, :4], gts[group], mode="iof")
    area = None if area_ranges is None else area_ranges[0]
    dull = (ignored | ~_in_range(gts, area, use_legacy_coordinate))[:group.sum()]
    own = inside.argmax(axis=1) if group.any() else np.zeros(len(inside), dtype=int)
    in_group = (tp[0] == 0) & (inside.max(axis=1, initial=-1.0) >= ioa_thr)
    if group.any():
        in_group &= ~dull[own]
    # A group that nothing lies in stays as a box of zeros, wrong with the lowest score.
    of_groups = np.zeros((inside.shape[1], 5), dtype=det_bboxes.dtype)
    right = np.zeros((1, inside.shape[1]), dtype=np.float32)
    for j in np.unique(own[in_group]):
        mine = np.flatnonzero(in_group & (own == j))
        of_groups[j], right[0, j] = det_bboxes[mine[det_bboxes[mine, -1].argmax()]], 1
    rest = ~in_group
    return (np.concatenate([tp[:, rest], right], axis=1),
            np.concatenate([fp[:, rest], 1 - right], axis=1),
            np.concatenate([det_bboxes[rest], of_groups]))


# ------------------------------------------------------------------ all images and classes
def get_cls_results(det_results: Sequence[Any], annotations: Sequence[dict[str, Any]],
                    class_id: int) -> tuple[list[np.ndarray], ...]:
    """Detections, gts and regions to ignore of one class, of each image."""
    gts, ignored = [], []
    for mine in annotations:
        gts.append(mine["bboxes"][mine["labels"] == class_id, :])
        if mine.get("labels_ignore") is None:
            ignored.append(np.zeros((0, 4), dtype=np.float32))
        else:
            ignored.append(mine["bboxes_ignore"][mine["labels_ignore"] == class_id, :])
    return [found[class_id] for found in det_results], gts, ignored


def get_cls_group_ofs(annotations: Sequence[dict[str, Any]], class_id: int) -> list[np.ndarray]:
    """Whether each gt of one class is a group, of each image."""
    found = []
    for mine in annotations:
        flags = mine.get("gt_is_group_ofs")
        found.append(np.zeros((0, 1), dtype=bool) if flags is None else
                     flags[mine["labels"] == class_id])
    return found


def _rule(dataset: Any, use_group_of: bool) -> Callable[..., Any]:
    if dataset in ("det", "vid"):
        return tpfp_imagenet
    if dataset in ("oid_challenge", "oid_v6") or use_group_of:
        return tpfp_openimages
    return tpfp_default


def eval_map(det_results: Sequence[Any], annotations: Sequence[dict[str, Any]],
             scale_ranges: Sequence[tuple[float, float]] | None = None, iou_thr: float = 0.5,
             ioa_thr: float | None = None, dataset: Any = None, logger: Logger = None,
             tpfp_fn: Callable[..., Any] | None = None, nproc: int = 4,
             use_legacy_coordinate: bool = False, use_group_of: bool = False) -> Any:
    """The mean over classes of the average precision.

    Args:
        det_results: of each image and class, [m, 5] boxes and scores.
        annotations: of each image ``bboxes`` [n, 4] and ``labels`` [n], perhaps ``bboxes_ignore``
            and ``labels_ignore``, and ``gt_is_group_ofs`` [n].
        scale_ranges: ranges of the square root of the area, evaluated each for itself.
        iou_thr: the overlap that a detection needs.
        ioa_thr: the share of a detection that lies in its group.
        dataset: a data set's name, which gives the rules and names the classes in the table, or
            the names of the classes.
        logger: where the table goes to, see :data:`Logger`.
        tpfp_fn: rules of one's own, see :func:`tpfp_default`.
        nproc: not used: images are matched here, in one process.
        use_legacy_coordinate: boxes hold their last pixel, too.
        use_group_of: gts may be groups, as in Open Images.

    Returns:
        The mean, or a list of that of each range, and of each class ``num_gts``, ``num_dets``,
        ``recall``, ``precision`` and ``ap``.

    Raises:
        ValueError: there are other images in the two, or ``tpfp_fn`` cannot be called.
    """
    if len(det_results) != len(annotations):
        raise ValueError(f"eval_map: det_results are of {len(det_results)} images, annotations of "
                         f"{len(annotations)}")
    rule = _rule(dataset, use_group_of) if tpfp_fn is None else tpfp_fn
    if not callable(rule):
        raise ValueError(f"eval_map: tpfp_fn must be a function, got {type(rule).__name__}")
    ranges = None if scale_ranges is None else [(low ** 2, high ** 2) for low, high in scale_ranges]
    results = []
    for label in range(len(det_results[0])):
        dets, gts, ignored = get_cls_results(det_results, annotations, label)
        more: list[dict[str, Any]] = [{} for _ in dets]
        if rule is tpfp_openimages or use_group_of:
            for each, flags in zip(more, get_cls_group_ofs(annotations, label)):
                each.update(gt_bboxes_group_of=flags, use_group_of=use_group_of)
        if ioa_thr is not None:
            more = [{**each, "ioa_thr": ioa_thr} for each in more]
        judged = [rule(*each, iou_thr, ranges, use_legacy_coordinate, **extra)
                  for *each, extra in zip(dets, gts, ignored, more)]
        results.append(_summed(judged, dets, gts, ranges, use_legacy_coordinate,
                               "11points" if dataset == "voc07" else "area"))
    ap, num_gts = (np.stack([np.atleast_1d(r[key]) for r in results]) for key in ("ap", "num_gts"))
    means = [float(ap[num_gts[:, i] > 0, i].mean()) if (num_gts[:, i] > 0).any() else 0.0
             for i in range(ap.shape[1])]
    mean = means[0] if scale_ranges is None else means
    print_map_summary(mean, results, dataset, ranges, logger=logger)
    return mean, results


def _summed(judged: Sequence[Any], dets: Sequence[np.ndarray], gts: Sequence[np.ndarray],
            ranges: Ranges | None, legacy: bool,
            mode: str) -> dict[str, Any]:
    """Precision and recall of one class over all images."""
    if len(judged[0]) > 2:
        dets = [each[2] for each in judged]
    order = np.argsort(-np.concatenate(dets)[:, -1])
    tp, fp = (np.concatenate([each[i] for each in judged], axis=1)[:, order].cumsum(axis=1)
              for i in (0, 1))
    num_gts = np.array([sum(int(_in_range(boxes, area, legacy).sum()) for boxes in gts)
                        for area in ([None] if ranges is None else ranges)])
    eps = np.finfo(np.float32).eps
    recall, precision = tp / np.maximum(num_gts[:, None], eps), tp / np.maximum(tp + fp, eps)
    found: dict[str, Any] = {"num_gts": num_gts, "num_dets": len(order), "recall": recall,
                             "precision": precision}
    if ranges is None:
        found.update(num_gts=num_gts.item(), recall=recall[0], precision=precision[0])
    found["ap"] = average_precision(found["recall"], found["precision"], mode)
    return found


def print_map_summary(mean_ap: Any, results: Sequence[dict[str, Any]], dataset: Any = None,
                      scale_ranges: Sequence[tuple[float, float]] | None = None,
                      logger: Logger = None) -> None:
    """A table of each class and the mean.

    Args:
        mean_ap: as :func:`eval_map` returns it.
        results: likewise.
        dataset: the data set's name, or the names of the classes.
        scale_ranges: ranges of the areas, one table for each.
        logger: where the table goes to, see :data:`Logger`.
    """
    if isinstance(logger, str) and logger == "silent":
        return
    if dataset is None:
        names = [str(i) for i in range(len(results))]
    else:
        names = get_classes(dataset) if isinstance(dataset, str) else list(dataset)
    means = mean_ap if isinstance(mean_ap, list) else [mean_ap]
    for i, mean in enumerate(means):
        if scale_ranges is not None:
            tell(f"Scale range {scale_ranges[i]}", logger)
        rows: list[list[Any]] = [["class", "gts", "dets", "recall", "ap"]]
        for name, result in zip(names, results):
            recall = np.atleast_2d(result["recall"])
            last = recall[i, -1] if recall.size else 0.0
            rows.append([name, np.atleast_1d(result["num_gts"])[i], result["num_dets"],
                         f"{last:.3f}", f"{np.atleast_1d(result['ap'])[i]:.3f}"])
        tell("\n" + table([*rows, ["mAP", "", "", "", f"{mean:.3f}"]]), logger)
