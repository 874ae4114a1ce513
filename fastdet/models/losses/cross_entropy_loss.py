"""Cross entropy over classes, per class, and of masks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..builder import LOSSES
from .utils import Loss, one_hot_targets, weight_reduce_loss

__all__ = ["CrossEntropyLoss", "binary_cross_entropy", "cross_entropy", "mask_cross_entropy"]

#: ``ignore_index`` where none is given.
NEVER = -100


def cross_entropy(pred: Tensor, label: Tensor, weight: Tensor | None = None,
                  reduction: str = "mean", avg_factor: float | Tensor | None = None,
                  class_weight: Tensor | None = None, ignore_index: int | None = NEVER,
                  avg_non_ignore: bool = False) -> Tensor:
    """Softmax cross entropy.

    Args:
        pred: [N, C, ...], logits.
        label: [N, ...], classes.
        weight: one for each label.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        avg_factor: what the sum is divided by.
        class_weight: [C].
        ignore_index: a label with no loss.
        avg_non_ignore: the mean is over the labels that are not ignored.
    """
    ignore_index = NEVER if ignore_index is None else ignore_index
    loss = F.cross_entropy(pred, label, weight=class_weight, reduction="none",
                           ignore_index=ignore_index)
    if avg_factor is None and avg_non_ignore and reduction == "mean":
        avg_factor = (label != ignore_index).sum()
    weight = None if weight is None else weight.float()
    return weight_reduce_loss(loss, weight, reduction, avg_factor)


def binary_cross_entropy(pred: Tensor, label: Tensor, weight: Tensor | None = None,
                         reduction: str = "mean", avg_factor: float | Tensor | None = None,
                         class_weight: Tensor | None = None, ignore_index: int | None = NEVER,
                         avg_non_ignore: bool = False) -> Tensor:
    """Sigmoid cross entropy of each class.

    Args:
        pred: [N, C], logits (or [N] where ``label`` is).
        label: [N] classes, of which those outside ``[0, C)`` have no positive class, or targets of
            pred's shape.
        weight: [N], or of pred's shape.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        avg_factor: what the sum is divided by.
        class_weight: [C], of the positives.
        ignore_index: a label with no loss; negative labels have none either.
        avg_non_ignore: the mean is over the labels that are not ignored.
    """
    ignore_index = NEVER if ignore_index is None else ignore_index
    counts = (label >= 0) & (label != ignore_index)
    if pred.dim() != label.dim():
        label = one_hot_targets(label, pred.size(-1)) & counts[:, None]
        counts = counts[:, None].expand(label.shape)
        weight = weight if weight is None else weight[:, None]
    valid = counts.float()
    weight = valid if weight is None else weight * valid
    if avg_factor is None and avg_non_ignore and reduction == "mean":
        avg_factor = valid.sum()
    loss = F.binary_cross_entropy_with_logits(pred, label.float(), pos_weight=class_weight,
                                              reduction="none")
    return weight_reduce_loss(loss, weight.float(), reduction, avg_factor)


def mask_cross_entropy(pred: Tensor, target: Tensor, label: Tensor, reduction: str = "mean",
                       avg_factor: float | Tensor | None = None,
                       class_weight: Tensor | None = None, ignore_index: int | None = None,
                       **kwargs: Any) -> Tensor:
    """Sigmoid cross entropy of each RoI's mask of its own class (Mask R-CNN, arXiv 1703.06870).

    Args:
        pred: [N, C, h, w], logits.
        target: [N, h, w].
        label: [N], the class whose mask is trained.
        reduction: ``'mean'`` alone.
        avg_factor: not accepted.
        class_weight: of the positives.
        ignore_index: not accepted.
        kwargs: not used; what the module passes to every criterion.

    Returns:
        ``[1]``.

    Raises:
        ValueError: an argument that this loss does not have is given.
    """
    if ignore_index is not None:
        raise ValueError(f"mask_cross_entropy has no ignore_index, got {ignore_index}")
    if reduction != "mean" or avg_factor is not None:
        raise ValueError("mask_cross_entropy is a mean over all pixels, got "
                         f"reduction={reduction!r} and avg_factor={avg_factor}")
    rois = torch.arange(pred.size(0), dtype=torch.long, device=pred.device)
    return F.binary_cross_entropy_with_logits(pred[rois, label], target, weight=class_weight,
                                              reduction="mean")[None]


@LOSSES.register_module()
class CrossEntropyLoss(Loss):
    """One of the three functions above.

    Args:
        use_sigmoid: :func:`binary_cross_entropy` instead of :func:`cross_entropy`.
        use_mask: :func:`mask_cross_entropy`.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        class_weight: a weight for each class.
        ignore_index: a label with no loss.
        loss_weight: multiplies the loss.
        avg_non_ignore: the mean is over the labels that are not ignored.
    """

    def __init__(self, use_sigmoid: bool = False, use_mask: bool = False, reduction: str = "mean",
                 class_weight: Sequence[float] | None = None, ignore_index: int | None = None,
                 loss_weight: float = 1.0, avg_non_ignore: bool = False) -> None:
        super().__init__(reduction, loss_weight)
        if use_sigmoid and use_mask:
            raise ValueError("CrossEntropyLoss: give use_sigmoid or use_mask, not both")
        self.use_sigmoid = use_sigmoid
        self.use_mask = use_mask
        self.class_weight = class_weight
        self.ignore_index = ignore_index
        self.avg_non_ignore = avg_non_ignore
        if ignore_index is not None and not avg_non_ignore and reduction == "mean":
            warnings.warn("CrossEntropyLoss: the mean counts ignored labels as zeros; "
                          "avg_non_ignore=True leaves them out", stacklevel=2)
        self.cls_criterion: Callable[..., Tensor] = (
            binary_cross_entropy if use_sigmoid else
            mask_cross_entropy if use_mask else cross_entropy)

    def extra_repr(self) -> str:
        return f"avg_non_ignore={self.avg_non_ignore}"

    def forward(self, cls_score: Tensor, label: Tensor, weight: Tensor | None = None,
                avg_factor: float | Tensor | None = None, reduction_override: str | None = None,
                ignore_index: int | None = None, **kwargs: Any) -> Tensor:
        """The loss; for masks ``label`` is the target and ``weight`` the classes."""
        class_weight = (None if self.class_weight is None else
                        cls_score.new_tensor(self.class_weight))
        return self.weighted(self.cls_criterion(
            cls_score, label, weight, class_weight=class_weight,
            reduction=self.reduction_of(reduction_override), avg_factor=avg_factor,
            ignore_index=self.ignore_index if ignore_index is None else ignore_index,
            avg_non_ignore=self.avg_non_ignore, **kwargs))
