"""Triton kernels of max-IoU assignment.

boxes are [B, N, 4] or [N, 4] for all images, gts [B, G, 4] with counts [B], regions to ignore
[B, I, 4] with counts [B]. Every step rounds as torch's does, so the kernels are launched with
``enable_fp_fusion=False``: a low-quality match is an equality.
"""

import triton
import triton.language as tl

#: The bits of NaN; above those of every overlap, as integers.
NAN_BITS = tl.constexpr(0x7FC00000)


@triton.jit
def _load_boxes(ptr, offs, mask):
    x1 = tl.load(ptr + offs * 4, mask=mask, other=0.0)
    y1 = tl.load(ptr + offs * 4 + 1, mask=mask, other=0.0)
    x2 = tl.load(ptr + offs * 4 + 2, mask=mask, other=0.0)
    y2 = tl.load(ptr + offs * 4 + 3, mask=mask, other=0.0)
    return x1, y1, x2, y2, (x2 - x1) * (y2 - y1)


@triton.jit
def _load_box(ptr, i):
    x1 = tl.load(ptr + i * 4)
    y1 = tl.load(ptr + i * 4 + 1)
    x2 = tl.load(ptr + i * 4 + 2)
    y2 = tl.load(ptr + i * 4 + 3)
    return x1, y1, x2, y2, (x2 - x1) * (y2 - y1)


@triton.jit
def _overlap(ax1, ay1, ax2, ay2, bx1, by1, bx2, by2):
    """Area of the intersection. Comparisons, not maxima: NaN is to stay."""
    w = tl.where(ax2 < bx2, ax2, bx2) - tl.where(ax1 > bx1, ax1, bx1)
    h = tl.where(ay2 < by2, ay2, by2) - tl.where(ay1 > by1, ay1, by1)
    return tl.where(w < 0.0, 0.0, w) * tl.where(h < 0.0, 0.0, h)


@triton.jit
def _share(overlap, area):
    """The overlap over an area of at least 1e-6."""
    return tl.div_rn(overlap, tl.where(area < 1e-6, 1e-6, area) + tl.zeros_like(overlap))


@triton.jit
def _iou(x1, y1, x2, y2, area, gts_ptr, g):
    gx1, gy1, gx2, gy2, gt_area = _load_box(gts_ptr, g)
    overlap = _overlap(x1, y1, x2, y2, gx1, gy1, gx2, gy2)
    return _share(overlap, gt_area + area - overlap)


@triton.jit(do_not_specialize=["N", "G", "I"])
def max_iou_assign_best_kernel(
    boxes_ptr,
    gts_ptr,
    counts_ptr,  # [B] int32
    ignore_ptr,
    ignore_counts_ptr,  # [B] int32
    valid_ptr,  # [B, N] uint8, with HAS_VALID
    largest_ptr,  # [B, N] fp32: the largest overlap of a candidate
    which_ptr,  # [B, N] int32: the gt that it is with
    best_ptr,  # [B, G] int64, -1 before: bits of a gt's largest overlap, then ~candidate
    N,
    G,
    I,
    stride_b,  # of boxes
    ignore_iof_thr,
    HAS_IGNORE: tl.constexpr,
    HAS_VALID: tl.constexpr,
    BY_CANDIDATE: tl.constexpr,  # ignore by the share of the candidate, else of the region
    BLOCK: tl.constexpr,
):
    """The best gt of every candidate and the best candidate of every gt.

    Candidates that are not valid, or lie in a region to ignore, overlap nothing: -1. A NaN is the
    largest of all, and of equal overlaps the first counts, for a candidate and for a gt, as
    ``torch.max`` has it. Integers that order as the overlaps do make the maximum over programs
    independent of their order. Grid: (cdiv(N, BLOCK), B).
    """
    b = tl.program_id(1).to(tl.int64)
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < N
    x1, y1, x2, y2, area = _load_boxes(boxes_ptr + b * stride_b, offs, mask)
    kept = mask
    if HAS_VALID:
        kept = kept & (tl.load(valid_ptr + b * N + offs, mask=mask, other=0) != 0)
    counts = kept
    if HAS_IGNORE:
        covered = tl.full([BLOCK], -1.0, tl.float32)
        for i in range(tl.load(ignore_counts_ptr + b)):
            ix1, iy1, ix2, iy2, ignore_area = _load_box(ignore_ptr + b * I * 4, i)
            overlap = _overlap(x1, y1, x2, y2, ix1, iy1, ix2, iy2)
            if BY_CANDIDATE:
                share = _share(overlap, area)
            else:
                share = _share(overlap, ignore_area)
            covered = tl.where((share > covered) | (share != share), share, covered)
        counts = counts & ((covered <= ignore_iof_thr) | (covered != covered))
    largest = tl.full([BLOCK], -1.0, tl.float32)
    which = tl.zeros([BLOCK], dtype=tl.int32)
    count = tl.load(counts_ptr + b)
    for g in range(count):
        iou = _iou(x1, y1, x2, y2, area, gts_ptr + b * G * 4, g)
        better = counts & ((iou > largest) | ((iou != iou) & (largest == largest)))
        largest = tl.where(better, iou, largest)
        which = tl.where(better, g, which)
        bits = tl.where(iou == iou, iou.to(tl.int32, bitcast=True), NAN_BITS).to(tl.int64)
        key = tl.where(counts, (bits << 32) | (0x7FFFFFFF - offs), -1)
        tl.atomic_max(best_ptr + b * G + g, tl.max(key, 0), sem="relaxed")
    if count == 0:
        largest = tl.where(kept, 0.0, -1.0)
    tl.store(largest_ptr + b * N + offs, largest, mask=mask)
    tl.store(which_ptr + b * N + offs, which, mask=mask)


@triton.jit(do_not_specialize=["N", "G"])
def max_iou_assign_labels_kernel(
    boxes_ptr,
    gts_ptr,
    counts_ptr,  # [B] int32
    valid_ptr,  # [B, N] uint8, with HAS_VALID
    largest_ptr,  # [B, N] fp32
    which_ptr,  # [B, N] int32
    best_ptr,  # [B, G] int64
    gt_labels_ptr,  # [B, G] int64, with HAS_LABELS
    assigned_ptr,  # [B, N] int64
    labels_ptr,  # [B, N] int64, with HAS_LABELS
    N,
    G,
    stride_b,  # of boxes
    pos_iou_thr,
    neg_low,
    neg_high,
    min_pos_iou,
    HAS_VALID: tl.constexpr,
    HAS_LABELS: tl.constexpr,
    LOW_QUALITY: tl.constexpr,
    ASSIGN_ALL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """-1 for neither, 0 for background, g + 1 for gt g; then low-quality matches, the last wins.

    Labels are those of the gts, -1 where there is none. Grid: (cdiv(N, BLOCK), B).
    """
    b = tl.program_id(1).to(tl.int64)
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < N
    largest = tl.load(largest_ptr + b * N + offs, mask=mask, other=-1.0)
    which = tl.load(which_ptr + b * N + offs, mask=mask, other=0)
    assigned = tl.where((largest >= neg_low) & (largest < neg_high), 0, -1)
    assigned = tl.where(largest >= pos_iou_thr, which + 1, assigned)
    count = tl.load(counts_ptr + b)
    if LOW_QUALITY:
        x1, y1, x2, y2, area = _load_boxes(boxes_ptr + b * stride_b, offs, mask)
        for g in range(count):
            key = tl.load(best_ptr + b * G + g)
            best = (key >> 32).to(tl.int32).to(tl.float32, bitcast=True)
            if (key >= 0) & (best >= min_pos_iou):
                if ASSIGN_ALL:
                    iou = _iou(x1, y1, x2, y2, area, gts_ptr + b * G * 4, g)
                    match = (iou == best) & (largest != -1.0)
                else:
                    match = offs == 0x7FFFFFFF - (key & 0x7FFFFFFF)
                assigned = tl.where(match, g + 1, assigned)
    if count == 0:
        assigned = tl.zeros([BLOCK], dtype=tl.int32)
    if HAS_VALID:
        valid = tl.load(valid_ptr + b * N + offs, mask=mask, other=0) != 0
        assigned = tl.where(valid, assigned, -1)
    tl.store(assigned_ptr + b * N + offs, assigned.to(tl.int64), mask=mask)
    if HAS_LABELS:
        at = gt_labels_ptr + b * G + assigned - 1
        label = tl.load(at, mask=mask & (assigned > 0), other=-1)
        tl.store(labels_ptr + b * N + offs, label, mask=mask)
