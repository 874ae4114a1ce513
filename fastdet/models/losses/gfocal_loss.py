"""Generalised focal loss (arXiv 2006.04388): scores that are qualities, distances as classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdet.kernels.focal_losses import quality_focal_loss

from ..builder import LOSSES
from .utils import Loss, cross_entropy_of_probabilities, one_hot_targets, weighted_loss

__all__ = ["DistributionFocalLoss", "QualityFocalLoss", "distribution_focal_loss",
           "quality_focal_loss", "quality_focal_loss_with_prob"]


@weighted_loss
def quality_focal_loss_with_prob(pred: Tensor, target: tuple[Tensor, Tensor],
                                 beta: float = 2.0) -> Tensor:
    """Quality focal loss of probabilities.

    Args:
        pred: [N, C], probabilities.
        target: classes [N], C for background, and qualities [N].
        beta: exponent of the distance from the target.

    Returns:
        [N] before the reduction, sums over the classes.
    """
    labels, score = target
    wanted = torch.where(one_hot_targets(labels, pred.size(1)), score[:, None].to(pred.dtype), 0.0)
    loss = cross_entropy_of_probabilities(pred, wanted)
    return (loss * (wanted - pred).abs().pow(beta)).sum(1)


@weighted_loss
def distribution_focal_loss(pred: Tensor, label: Tensor) -> Tensor:
    """Cross entropy with the two integers next to a distance.

    Args:
        pred: [N, n + 1], logits of the distances 0 to n.
        label: [N], the true distance, below n.

    Returns:
        [N] before the reduction.
    """
    left = label.long()
    to_left = (left + 1).float() - label
    to_right = label - left.float()
    return (F.cross_entropy(pred, left, reduction="none") * to_left
            + F.cross_entropy(pred, left + 1, reduction="none") * to_right)


@LOSSES.register_module()
class QualityFocalLoss(Loss):
    """Quality focal loss as a module.

    Args:
        use_sigmoid: must be true.
        beta: exponent of the distance from the target.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: multiplies the loss.
        activated: predictions are probabilities, not logits.
    """

    def __init__(self, use_sigmoid: bool = True, beta: float = 2.0, reduction: str = "mean",
                 loss_weight: float = 1.0, activated: bool = False) -> None:
        super().__init__(reduction, loss_weight)
        if not use_sigmoid:
            raise ValueError("QualityFocalLoss is defined for the sigmoid, got use_sigmoid=False")
        self.use_sigmoid = use_sigmoid
        self.beta = beta
        self.activated = activated

    def forward(self, pred: Tensor, target: tuple[Tensor, Tensor], weight: Tensor | None = None,
                avg_factor: float | Tensor | None = None,
                reduction_override: str | None = None) -> Tensor:
        """The loss of [N, C] ``pred``; ``target`` is classes [N] and qualities [N]."""
        loss = quality_focal_loss_with_prob if self.activated else quality_focal_loss
        return self.weighted(loss(
            pred, target, weight, beta=self.beta, reduction=self.reduction_of(reduction_override),
            avg_factor=avg_factor))


@LOSSES.register_module()
class DistributionFocalLoss(Loss):
    """:func:`distribution_focal_loss` as a module."""

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None,
                avg_factor: float | Tensor | None = None,
                reduction_override: str | None = None) -> Tensor:
        return self.weighted(distribution_focal_loss(
            pred, target, weight, reduction=self.reduction_of(reduction_override),
            avg_factor=avg_factor))
