"""Max-IoU assignment: checks, dispatch, launches and registration."""

from __future__ import annotations

import torch
from torch import Tensor

from ..autograd import operator
from ..dispatch import Reason, use_triton
from ..launch import launch
from .cpu import max_iou_assign_chunked
from .reference import Rule

__all__ = ["can_run_max_iou_assign", "max_iou_assign"]

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
BLOCK = 512


def can_run_max_iou_assign(boxes: Tensor, gts: Tensor) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    for tensor in (boxes, gts):
        if tensor.dtype not in DTYPES:
            return f"its kernels take float32, float16 and bfloat16, not {tensor.dtype}"
    if boxes.shape[-2] >= 2**31 or gts.shape[0] > 65535:
        return "its kernels count up to 2^31 candidates and 65535 images"
    return None


@operator(
    "max_iou_assign",
    "(Tensor boxes, Tensor gts, Tensor counts, Tensor? gt_labels, Tensor? ignore, "
    "Tensor? ignore_counts, Tensor? valid, float[] thresholds, bool match_low_quality, "
    "bool gt_max_assign_all, bool ignore_wrt_candidates, bool triton) -> (Tensor, Tensor, Tensor)")
def _assign(boxes: Tensor, gts: Tensor, counts: Tensor, gt_labels: Tensor | None,
            ignore: Tensor | None, ignore_counts: Tensor | None, valid: Tensor | None,
            thresholds: list[float], match_low_quality: bool, gt_max_assign_all: bool,
            ignore_wrt_candidates: bool, triton: bool) -> tuple[Tensor, Tensor, Tensor]:
    """``[B, N]`` assigned gts, overlaps and labels, the last empty without ``gt_labels``."""
    pos, low, high, min_pos, iof = thresholds
    (b, g), n, device = gts.shape[:2], boxes.shape[-2], gts.device
    assigned = torch.empty((b, n), dtype=torch.int64, device=device)
    if not triton:
        rule = Rule(pos, low, high, min_pos, match_low_quality, gt_max_assign_all, iof,
                    ignore_wrt_candidates)
        largest = boxes.new_empty(b, n)
        ignored = [0] * b if ignore_counts is None else ignore_counts.tolist()
        for i, (gt_count, ignore_count) in enumerate(zip(counts.tolist(), ignored)):
            assigned[i], largest[i] = max_iou_assign_chunked(
                boxes if boxes.dim() == 2 else boxes[i], gts[i, :gt_count], rule,
                None if ignore is None else ignore[i, :ignore_count],
                None if valid is None else valid[i])
        labels = assigned.new_empty(0)
        if gt_labels is not None:
            padded = torch.cat([gt_labels, gt_labels.new_full((b, 1), -1)], 1)
            labels = padded.gather(1, torch.where(assigned > 0, assigned - 1, g))
        return assigned, largest, labels
    from .kernel import max_iou_assign_best_kernel, max_iou_assign_labels_kernel

    dtype, boxes, gts = boxes.dtype, boxes.float().contiguous(), gts.float().contiguous()
    counts = counts.int().contiguous()
    largest = torch.empty((b, n), dtype=torch.float32, device=device)
    which = torch.empty((b, n), dtype=torch.int32, device=device)
    best = torch.full((b, g), -1, dtype=torch.int64, device=device)
    labels = torch.empty((b, n) if gt_labels is not None else (0,), dtype=torch.int64,
                         device=device)
    has_ignore = ignore is not None and ignore_counts is not None and iof > 0
    regions = ignore.float().contiguous() if ignore is not None and has_ignore else boxes
    region_counts = ignore_counts.int().contiguous() if ignore_counts is not None else counts
    kept = valid.contiguous().view(torch.uint8) if valid is not None else which
    stride = 0 if boxes.dim() == 2 else n * 4
    grid = (-(-n // BLOCK), b)
    launch(max_iou_assign_best_kernel, grid, boxes, gts, counts, regions, region_counts, kept,
           largest, which, best, n, g, regions.shape[-2], stride, iof, device=device,
           HAS_IGNORE=int(has_ignore), HAS_VALID=int(valid is not None),
           BY_CANDIDATE=int(ignore_wrt_candidates), BLOCK=BLOCK, num_warps=4,
           enable_fp_fusion=False)
    launch(max_iou_assign_labels_kernel, grid, boxes, gts, counts, kept, largest, which, best,
           gt_labels.long().contiguous() if gt_labels is not None else which, assigned, labels, n,
           g, stride, pos, low, high, min_pos, device=device, HAS_VALID=int(valid is not None),
           HAS_LABELS=int(gt_labels is not None), LOW_QUALITY=int(match_low_quality),
           ASSIGN_ALL=int(gt_max_assign_all), BLOCK=BLOCK, num_warps=4, enable_fp_fusion=False)
    return assigned, largest.to(dtype), labels


@_assign.register_fake
def _(boxes: Tensor, gts: Tensor, counts: Tensor, gt_labels: Tensor | None,
      ignore: Tensor | None, ignore_counts: Tensor | None, valid: Tensor | None,
      thresholds: list[float], match_low_quality: bool, gt_max_assign_all: bool,
      ignore_wrt_candidates: bool, triton: bool) -> tuple[Tensor, Tensor, Tensor]:
    shape = (gts.shape[0], boxes.shape[-2])
    return (boxes.new_empty(shape, dtype=torch.int64), boxes.new_empty(shape),
            boxes.new_empty(shape if gt_labels is not None else (0,), dtype=torch.int64))


def max_iou_assign(
        boxes: Tensor, gts: Tensor, counts: Tensor, *, pos_iou_thr: float,
        neg_iou_thr: float | tuple[float, float], min_pos_iou: float = 0.0,
        match_low_quality: bool = True, gt_max_assign_all: bool = True,
        ignore: Tensor | None = None, ignore_counts: Tensor | None = None,
        ignore_iof_thr: float = -1, ignore_wrt_candidates: bool = True,
        valid: Tensor | None = None, gt_labels: Tensor | None = None
        ) -> tuple[Tensor, Tensor, Tensor | None]:
    """Assign candidates to ground truth by IoU (Faster R-CNN, arXiv 1506.01497).

    A candidate is background where its largest IoU lies in ``[0, neg_iou_thr)`` or within a pair of
    thresholds, and positive from ``pos_iou_thr`` on. Then each gt whose best IoU reaches
    ``min_pos_iou`` takes the candidates that have it, in the order of the gts: a later one takes
    from an earlier. The images of a batch run at once, in O(N) memory; nothing waits for the
    device, and nothing depends on an order.

    Args:
        boxes: ``[B, N, 4]`` x1, y1, x2, y2, or ``[N, 4]`` for all images.
        gts: ``[B, G, 4]``, those of an image first.
        counts: ``[B]`` integers, the gts of each image; on a GPU not checked.
        pos_iou_thr: the smallest IoU of a positive.
        neg_iou_thr: the IoU that background stays below, or a range.
        min_pos_iou: the smallest best IoU for which a gt takes its best candidates.
        match_low_quality: whether gts take their best candidates at all.
        gt_max_assign_all: all candidates of the same, best IoU, instead of the first.
        ignore: ``[B, I, 4]`` regions in which nobody is assigned.
        ignore_counts: ``[B]`` integers, the regions of each image; all I by default.
        ignore_iof_thr: a candidate of which more than this share lies in a region is left out; not
            positive: none is.
        ignore_wrt_candidates: share of the candidate, else of the region.
        valid: ``[B, N]`` bool; a candidate that is not is left out.
        gt_labels: ``[B, G]`` integers.

    Returns:
        ``[B, N]`` int64, -1 for neither or left out, 0 for background, g + 1 for gt g; ``[B, N]``,
        the largest IoU, -1 for one left out, 0 without gts, NaN where one is; and ``[B, N]`` int64,
        the label of the gt, else -1 (``None`` without ``gt_labels``). An image without gts is
        background, whatever is ignored. Boxes of half types are compared in float32 on a GPU.

    Raises:
        ValueError: a shape, type or device does not fit.
        BackendError: the triton backend was asked for by name and cannot take the call.
    """
    name = "max_iou_assign"
    b, g = gts.shape[0], gts.shape[1] if gts.dim() == 3 else -1
    if gts.dim() != 3 or gts.shape[2] != 4 or boxes.dim() not in (2, 3) or \
            boxes.shape[-1] != 4 or (boxes.dim() == 3 and boxes.shape[0] != b):
        raise ValueError(f"{name}: expected boxes [B, N, 4] or [N, 4] and gts [B, G, 4], got "
                         f"{list(boxes.shape)} and {list(gts.shape)}")
    n = boxes.shape[-2]
    for what, tensor, want in (("counts", counts, (b,)), ("ignore_counts", ignore_counts, (b,)),
                               ("valid", valid, (b, n)), ("gt_labels", gt_labels, (b, g))):
        if tensor is not None and (tuple(tensor.shape) != want or tensor.is_floating_point()):
            raise ValueError(f"{name}: {what} must be {list(want)}, not floating-point, got "
                             f"{tensor.dtype} {list(tensor.shape)}")
    if ignore is not None and (ignore.dim() != 3 or ignore.shape[0] != b or ignore.shape[2] != 4):
        raise ValueError(f"{name}: ignore must be [{b}, I, 4], got {list(ignore.shape)}")
    for what, tensor in (("gts", gts), ("counts", counts), ("ignore", ignore), ("valid", valid),
                         ("ignore_counts", ignore_counts), ("gt_labels", gt_labels)):
        if tensor is not None and tensor.device != boxes.device:
            raise ValueError(f"{name}: {what} must be on {boxes.device} like boxes, got "
                             f"{tensor.device}")
    if not boxes.is_floating_point() or gts.dtype != boxes.dtype:
        raise ValueError(f"{name}: boxes and gts must be of one floating-point type, got "
                         f"{boxes.dtype} and {gts.dtype}")
    if valid is not None and valid.dtype != torch.bool:
        raise ValueError(f"{name}: valid must be bool, got {valid.dtype}")
    if ignore is not None and ignore_counts is None:
        ignore_counts = torch.full((b,), ignore.shape[1], dtype=torch.int32, device=boxes.device)
    low, high = neg_iou_thr if isinstance(neg_iou_thr, (tuple, list)) else (0.0, neg_iou_thr)
    triton = use_triton(name, boxes.device, can_run_max_iou_assign(boxes, gts))
    thresholds = [float(t) for t in (pos_iou_thr, low, high, min_pos_iou, ignore_iof_thr)]
    assigned, largest, labels = _assign(
        boxes.detach(), gts.detach(), counts, gt_labels, ignore, ignore_counts, valid, thresholds,
        match_low_quality, gt_max_assign_all, ignore_wrt_candidates, triton)
    return assigned, largest, labels if gt_labels is not None else None
