"""Prime samples (PISA, arXiv 1904.04821): importance by rank, regression aware of the class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.core.bbox.iou_calculators import bbox_overlaps

__all__ = ["carl_loss", "isr_p"]

#: Labels [N], label weights [N], box targets [N, 4] and box weights [N, 4].
Targets = tuple[Tensor, Tensor, Tensor, Tensor]


def _positives(labels: Tensor, num_class: int) -> Tensor:
    return ((labels >= 0) & (labels < num_class)).nonzero().reshape(-1)


def _of_class(bbox_pred: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
    """Each row's box: that of its class, or the only one."""
    if bbox_pred.size(-1) > 4:
        return bbox_pred.view(bbox_pred.size(0), -1, 4)[rows, labels]
    return bbox_pred[rows].view(-1, 4)


def _rank_in_group(values: Tensor, group: Tensor) -> Tensor:
    """How many members of an element's group stand before it, from the largest value down."""
    order = values.argsort(descending=True, stable=True)
    order = order[group[order].argsort(stable=True)]
    _, counts = torch.unique_consecutive(group[order], return_counts=True)
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - starts
    return rank


def isr_p(cls_score: Tensor, bbox_pred: Tensor, bbox_targets: Targets, rois: Tensor,
          sampling_results: Sequence[Any], loss_cls: nn.Module, bbox_coder: Any, k: float = 2,
          bias: float = 0, num_class: int = 80) -> Targets:
    """Reweigh the positives' classification by their rank in IoU (ISR-P), their sum unchanged.

    Ranks are first taken among the positives of one gt and then, by these, among those of a class.

    Args:
        cls_score: [N, C], logits.
        bbox_pred: [N, 4] or [N, 4 C].
        bbox_targets: labels, label weights, box targets and box weights.
        rois: [N, 5] rois of a two-stage detector, or [N, 4] anchors.
        sampling_results: one of each image.
        loss_cls: the classification loss.
        bbox_coder: decodes ``bbox_pred`` and the targets.
        k: exponent of the weights.
        bias: what every weight is shifted by.
        num_class: labels from here on are background.

    Returns:
        ``bbox_targets``; its label weights are changed in place.

    Raises:
        ValueError: the positives of ``sampling_results`` are not those of the labels.
    """
    labels, label_weights, box_targets, _ = bbox_targets
    rows = _positives(labels, num_class)
    if rows.numel() == 0:
        return bbox_targets
    pos_labels = labels[rows]
    gts, before = [], 0
    for result in sampling_results:
        gts.append(result.pos_assigned_gt_inds + before)
        before += int(result.pos_assigned_gt_inds.max()) + 1 if gts[-1].numel() else 0
    gt_of = torch.cat(gts)
    if len(gt_of) != len(rows):
        raise ValueError(f"isr_p: the sampling results have {len(gt_of)} positives, the labels "
                         f"{len(rows)}")
    cls_score, bbox_pred = cls_score.detach(), bbox_pred.detach()
    pos_rois = rois[rows][:, -4:]
    ious = bbox_overlaps(
        bbox_coder.decode(pos_rois, _of_class(bbox_pred, rows, pos_labels)),
        bbox_coder.decode(pos_rois, box_targets[rows].view(-1, 4)), is_aligned=True)
    most = pos_labels.bincount().max()
    ious = ious + (most - _rank_in_group(ious, pos_labels * before + gt_of).float())
    rank = _rank_in_group(ious, pos_labels).float()
    old = label_weights[rows]
    new = (bias + old * ((most - rank) / most) * (1 - bias)).pow(k)
    losses = loss_cls(cls_score[rows], pos_labels, reduction_override="none")
    losses = losses.sum(1) if losses.dim() > 1 else losses
    label_weights[rows] = new * ((losses * old).sum() / (losses * new).sum())
    return bbox_targets


def carl_loss(cls_score: Tensor, labels: Tensor, bbox_pred: Tensor, bbox_targets: Tensor,
              loss_bbox: Callable[..., Tensor], k: float = 1, bias: float = 0.2,
              avg_factor: float | Tensor | None = None, sigmoid: bool = False,
              num_class: int = 80) -> dict[str, Tensor]:
    """Regression weighed by the score of the own class, which so gets a gradient (CARL).

    Args:
        cls_score: [N, C], logits.
        labels: [N], classes.
        bbox_pred: [N, 4] or [N, 4 C].
        bbox_targets: [N, 4].
        loss_bbox: the regression loss.
        k: exponent of the weights.
        bias: what every weight is shifted by.
        avg_factor: what the sum is divided by; N by default.
        sigmoid: scores are sigmoids, not softmaxes.
        num_class: labels from here on are background.

    Returns:
        ``loss_carl``, ``[1]``.
    """
    rows = _positives(labels, num_class)
    if rows.numel() == 0:
        return {"loss_carl": cls_score.sum()[None] * 0.0}
    pos_labels = labels[rows]
    scores = cls_score.sigmoid() if sigmoid else cls_score.softmax(-1)
    weights = (bias + (1 - bias) * scores[rows, pos_labels]).pow(k)
    weights = weights * (float(len(rows)) / weights.sum())
    loss = loss_bbox(_of_class(bbox_pred, rows, pos_labels), bbox_targets[rows],
                     reduction_override="none")
    factor = bbox_targets.size(0) if avg_factor is None else avg_factor
    return {"loss_carl": (loss / factor * weights[:, None]).sum()[None]}
