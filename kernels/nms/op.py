"""Non-maximum suppression: checks, sorting, dispatch, launches and registration."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from ..autograd import operator
from ..common import dtype_reason, next_power_of_2
from ..dispatch import Reason, tracing, use_triton
from ..launch import Program
from .cpu import by_group, by_score, nms_cpu

__all__ = ["batched_nms_indices", "batched_nms_padded", "can_run_nms"]

BLOCK = 64
#: One program keeps a bit per box in registers, at most 8 words of 32 in each of 256 threads.
MAX_BOXES = 8 * 32 * 256
#: The group of boxes that take no part.
NO_GROUP = torch.iinfo(torch.int64).max


def can_run_nms(boxes: Tensor) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    if boxes.shape[-2] > MAX_BOXES:
        return f"its kernels take at most {MAX_BOXES} boxes an image, not {boxes.shape[-2]}"
    return dtype_reason(boxes)


SCHEMA = ("(Tensor boxes, Tensor groups, Tensor rank, float iou_threshold, SymInt offset, "
          "SymInt limit) -> Tensor")


@operator("nms", SCHEMA)
def _triton(boxes: Tensor, groups: Tensor, rank: Tensor, iou_threshold: float, offset: int,
            limit: int) -> Tensor:
    """Which boxes stay, bool [B, N], in the order of ``rank``; see the kernels' docstring."""
    b, n = groups.shape
    tiles, words = -(-n // BLOCK), -(-n // 32)
    device, groups = boxes.device, groups.contiguous()
    keep = torch.zeros((b, n), dtype=torch.bool, device=device)
    mask = groups.new_empty((b, n, words), dtype=torch.int32)
    fill, scan = _programs(offset, next_power_of_2(words, 32))
    fill((tiles, tiles, b), boxes.contiguous(), groups, mask, iou_threshold, n, device=device)
    scan((words, b), groups, mask, rank.contiguous(), keep, n, limit, device=device)
    return keep


@cache
def _programs(offset: int, lanes: int) -> tuple[Program, Program]:
    """The two kernels, for rows of the mask of up to ``lanes`` words."""
    from . import kernel

    return (Program(kernel.nms_mask_kernel, NO_GROUP=NO_GROUP, OFFSET=offset, BLOCK=BLOCK,
                    num_warps=8, enable_fp_fusion=False),
            Program(kernel.nms_scan_kernel, NO_GROUP=NO_GROUP, WORDS=lanes,
                    ROWS=8 if lanes <= 1024 else 2, num_warps=min(max(lanes // 128, 1), 8)))


@operator("nms_torch", SCHEMA)
def _torch(boxes: Tensor, groups: Tensor, rank: Tensor, iou_threshold: float, offset: int,
           limit: int) -> Tensor:
    """The same without Triton: on the host, wherever the boxes are."""
    keep = torch.zeros(groups.shape, dtype=torch.bool)
    for image, (box, group, ranks) in enumerate(zip(boxes.cpu(), groups.cpu(), rank.cpu())):
        groups_ = group.numpy()
        mine = (groups_ != NO_GROUP).nonzero()[0]
        stays = mine[nms_cpu(box, mine, groups_[mine], iou_threshold, offset, limit)]
        keep[image, ranks[torch.from_numpy(stays)]] = True
    return keep.to(boxes.device)


@_triton.register_fake
@_torch.register_fake
def _(boxes: Tensor, groups: Tensor, rank: Tensor, iou_threshold: float, offset: int,
      limit: int) -> Tensor:
    return torch.empty_like(groups, dtype=torch.bool, memory_format=torch.contiguous_format)


def _check(boxes: Tensor, scores: Tensor, groups: Tensor | None, valid: Tensor | None,
           offset: int) -> None:
    if boxes.dim() not in (2, 3) or boxes.shape[-1] != 4 or not boxes.is_floating_point():
        raise ValueError("nms: boxes must be floating-point [N, 4] or [B, N, 4], got "
                         f"{boxes.dtype} {list(boxes.shape)}")
    for name, one in (("scores", scores), ("groups", groups), ("valid", valid)):
        if one is not None and (one.shape != boxes.shape[:-1] or one.device != boxes.device):
            raise ValueError(f"nms: {name} must be {list(boxes.shape[:-1])} on {boxes.device} for "
                             f"boxes {list(boxes.shape)}, got {list(one.shape)} on {one.device}")
    if offset not in (0, 1):
        raise ValueError(f"nms: offset must be 0 or 1, got {offset!r}")


def batched_nms_indices(boxes: Tensor, scores: Tensor, groups: Tensor | None,
                        iou_threshold: float, max_num: int = -1, *, score_threshold: float = 0.0,
                        offset: int = 0) -> Tensor:
    """The kept indices of :func:`batched_nms_padded` alone; on a GPU the host waits for them.

    Args:
        boxes: [N, 4]; see there for it and the others.
        scores: [N].
        groups: [N] or ``None``.
        iou_threshold: intersection over union above which a box is suppressed.
        max_num: keep the best so many; all if not positive.
        score_threshold: if positive, boxes with scores up to it take no part.
        offset: 0 or 1.

    Returns:
        int64 [K], by descending score.

    Raises:
        ValueError: shapes, data types or devices do not fit, or offset is neither 0 nor 1.
        BackendError: the triton backend was asked for by name and cannot take the call.
    """
    if boxes.device.type != "cpu" or tracing() or use_triton("nms", boxes.device,
                                                             can_run_nms(boxes)):
        keep, count = batched_nms_padded(boxes, scores, groups, iou_threshold, max_num,
                                         score_threshold=score_threshold, offset=offset)
        return keep[:int(count)]
    _check(boxes, scores, groups, None, offset)
    order = by_score(scores)
    if score_threshold > 0:
        order = order[(scores > score_threshold).numpy()[order]]  # a NaN takes no part then
    limit = max(max_num, 0)
    if groups is None:
        kept = order[nms_cpu(boxes, order, None, float(iou_threshold), offset, limit)]
    else:
        group = groups.long().numpy()[order]
        grouped = by_group(group)
        stays = nms_cpu(boxes, order[grouped], group[grouped], float(iou_threshold), offset, limit)
        places = grouped[stays]
        places.sort()
        kept = order[places]
    return torch.from_numpy(kept[:max_num] if max_num > 0 else kept)


def batched_nms_padded(boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_threshold: float,
                       max_num: int = -1, *, score_threshold: float = 0.0, offset: int = 0,
                       valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Non-maximum suppression within groups, of a fixed size, without a word from the host.

    A box is kept unless a kept box of its group with a higher score overlaps it by more than the
    threshold. Boxes of equal score count in the order in which they stand, NaN counts as the
    highest score, and a box with a NaN coordinate neither suppresses nor is suppressed.

    Args:
        boxes: [N, 4] or [B, N, 4], x1, y1, x2, y2; half types are compared in fp32.
        scores: [N] or [B, N].
        groups: integers [N] or [B, N], such as class or level indices; ``None`` for one group.
        iou_threshold: intersection over union above which a box is suppressed.
        max_num: keep the best so many of all groups together; all if not positive.
        score_threshold: if positive, boxes with scores up to it take no part.
        offset: 1 if x2 and y2 belong to the box (its width is ``x2 - x1 + 1``), else 0.
        valid: bool [N] or [B, N], boxes that take part; all if ``None``.

    Returns:
        Indices of kept boxes by descending score, int64 [K] or [B, K] with K = N or
        ``min(N, max_num)``, zero behind the last one; and how many there are, int64 [] or [B].

    Raises:
        ValueError: shapes, data types or devices do not fit, or offset is neither 0 nor 1.
        BackendError: the triton backend was asked for by name and cannot take the call.
    """
    _check(boxes, scores, groups, valid, offset)
    if boxes.dim() == 2:
        keep, count = batched_nms_padded(
            boxes[None], scores[None], None if groups is None else groups[None], iou_threshold,
            max_num, score_threshold=score_threshold, offset=offset,
            valid=None if valid is None else valid[None])
        return keep[0], count[0]

    if boxes.requires_grad:
        boxes = boxes.detach()
    if scores.requires_grad:
        scores = scores.detach()
    n = boxes.shape[1]
    rank = scores.sort(dim=1, descending=True, stable=True).indices
    if score_threshold > 0:
        above = scores > score_threshold
        valid = above if valid is None else valid & above
    group = torch.zeros_like(rank) if groups is None else groups.long().gather(1, rank)
    if valid is not None:
        group = group.masked_fill(~valid.gather(1, rank), NO_GROUP)
    if groups is None and valid is None:
        by_group = torch.arange(n, device=boxes.device).expand_as(rank)
        order = rank
    else:
        group, by_group = group.sort(dim=1, stable=True)
        order = rank.gather(1, by_group)
    boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
    triton = use_triton("nms", boxes.device, can_run_nms(boxes))
    stays = (_triton if triton else _torch)(boxes, group, by_group, float(iou_threshold), offset,
                                            max(max_num, 0))
    # What stays moves to its place among the kept, the rest and what is too much before the first
    # and behind the last.
    last = stays.cumsum(1)
    count = last[:, -1] if n > 0 else stays.sum(1)
    place = last * stays
    size = n
    if max_num > 0:
        size = torch.sym_min(n, max_num)  # min() would guard on it
        place, count = place.clamp_(max=size + 1), count.clamp(max=size)
    keep = rank.new_zeros((rank.shape[0], size + 2)).scatter_(1, place, rank)
    return keep[:, 1:size + 1], count
