"""Soft non-maximum suppression and matching in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..nms.reference import overlaps

#: By mmcv's numbers.
METHODS = ("naive", "linear", "gaussian")


def _first_best(scores: Tensor) -> int:
    """The first of the highest scores; NaN is the highest in front and the lowest elsewhere."""
    if scores[0].isnan():
        return 0
    return int(scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).argmax())


def soft_nms_reference(boxes: Tensor, scores: Tensor, groups: Tensor | None, iou_threshold: float,
                       sigma: float, min_score: float, method: str, offset: int
                       ) -> tuple[Tensor, Tensor]:
    """Choose the best box, lower the scores of those that it overlaps, and so on.

    Which of two equal scores comes first is decided by where they stand at the time: the chosen
    box changes places with the first of those that are left, and the last one takes the place of
    a box that is dropped. The order of mmcv's results follows from it.

    Args:
        boxes: [N, 4].
        scores: [N].
        groups: [N], boxes of different groups do not see each other; ``None`` for one group.
        iou_threshold: of ``linear`` and ``naive``.
        sigma: of ``gaussian``.
        min_score: boxes below it are dropped, once another has been chosen.
        method: one of :data:`METHODS`.
        offset: 0 or 1.

    Returns:
        Indices in the order in which they were chosen, and the scores they then had, both [K].
    """
    index, boxes, scores = torch.arange(len(boxes)), boxes.clone(), scores.clone()
    chosen, values = [], []
    while len(index):
        best = _first_best(scores)
        for one in (index, boxes, scores):
            one[[0, best]] = one[[best, 0]]
        first = int(index[0])
        chosen.append(first)
        values.append(scores[0])
        overlap = overlaps(boxes[0], boxes[1:], offset)
        if method == "gaussian":
            weight = torch.exp(-(overlap * overlap) / sigma)
        else:
            lower = 1 - overlap if method == "linear" else torch.zeros_like(overlap)
            weight = torch.where(overlap >= iou_threshold, lower, 1)
        if groups is not None:
            weight = torch.where(groups[index[1:]] == groups[first], weight, 1)
        index, boxes, scores = index[1:], boxes[1:], scores[1:] * weight.to(scores.dtype)
        stays = ~(scores < min_score)
        left = int(stays.sum())
        if left < len(index):
            order = torch.arange(left)
            order[~stays[:left]] = stays[left:].nonzero().view(-1).flip(0) + left
            index, boxes, scores = index[order], boxes[order], scores[order]
    return (torch.tensor(chosen, dtype=torch.int64),
            torch.stack(values) if values else scores.new_zeros(0))


def match_reference(boxes: Tensor, scores: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of a kept box and those that overlap it by at least the threshold, best first.

    Args:
        boxes: [N, 4].
        scores: [N].
        iou_threshold: intersection over union from which on a box belongs to a better one.
    """
    order, groups = scores.sort(descending=True, stable=True)[1], []
    while len(order):
        close = overlaps(boxes[order[0]], boxes[order[1:]], 0) >= iou_threshold
        groups.append([int(order[0]), *order[1:][close].tolist()])
        order = order[1:][~close]
    return groups
