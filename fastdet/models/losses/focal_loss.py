"""Focal loss (RetinaNet, arXiv 1708.02002)."""

from __future__ import annotations

from torch import Tensor

from fastdet.kernels import focal_losses

from ..builder import LOSSES
from .utils import (
    Loss,
    cross_entropy_of_probabilities,
    one_hot_targets,
    weight_reduce_loss,
)

__all__ = ["FocalLoss", "py_focal_loss_with_prob", "sigmoid_focal_loss"]


def sigmoid_focal_loss(pred: Tensor, target: Tensor, weight: Tensor | None = None,
                       gamma: float = 2.0, alpha: float = 0.25, reduction: str = "mean",
                       avg_factor: float | Tensor | None = None) -> Tensor:
    """Focal loss of logits.

    Args:
        pred: [N, C], logits.
        target: [N] classes, C for background, or [N, C] in [0, 1].
        weight: [N] or [N, C], or its N C numbers in a row.
        gamma: exponent of the focus on hard examples.
        alpha: weight of targets, against 1 - alpha of the background.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        avg_factor: what the sum is divided by.
    """
    if weight is not None and weight.numel() == pred.numel():
        weight = weight.view_as(pred)
    return focal_losses.sigmoid_focal_loss(pred, target, weight, gamma, alpha, reduction,
                                           avg_factor)


def py_focal_loss_with_prob(pred: Tensor, target: Tensor, weight: Tensor | None = None,
                            gamma: float = 2.0, alpha: float = 0.25, reduction: str = "mean",
                            avg_factor: float | Tensor | None = None) -> Tensor:
    """Focal loss of probabilities.

    Args:
        pred: [N, C], probabilities.
        target: [N] classes, C for background, or [N, C] in [0, 1].
        weight: [N] or [N, C].
        gamma: exponent of the focus on hard examples.
        alpha: weight of targets, against 1 - alpha of the background.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        avg_factor: what the sum is divided by.
    """
    if pred.dim() != target.dim():
        target = one_hot_targets(target, pred.size(1))
    target = target.type_as(pred)
    off = (1 - pred) * target + pred * (1 - target)
    focus = (alpha * target + (1 - alpha) * (1 - target)) * off.pow(gamma)
    loss = cross_entropy_of_probabilities(pred, target) * focus
    if weight is not None and weight.shape != loss.shape:
        weight = weight.view(loss.size(0), -1)
    return weight_reduce_loss(loss, weight, reduction, avg_factor)


@LOSSES.register_module()
class FocalLoss(Loss):
    """Focal loss as a module.

    Args:
        use_sigmoid: must be true.
        gamma: exponent of the focus on hard examples.
        alpha: weight of targets, against 1 - alpha of the background.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: multiplies the loss.
        activated: predictions are probabilities, not logits.
    """

    def __init__(self, use_sigmoid: bool = True, gamma: float = 2.0, alpha: float = 0.25,
                 reduction: str = "mean", loss_weight: float = 1.0,
                 activated: bool = False) -> None:
        super().__init__(reduction, loss_weight)
        if not use_sigmoid:
            raise ValueError("FocalLoss is defined for the sigmoid, got use_sigmoid=False")
        self.use_sigmoid = use_sigmoid
        self.gamma = gamma
        self.alpha = alpha
        self.activated = activated

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None,
                avg_factor: float | Tensor | None = None,
                reduction_override: str | None = None) -> Tensor:
        """The loss of [N, C] ``pred``; ``target`` is [N] classes, C for background, or [N, C]."""
        loss = py_focal_loss_with_prob if self.activated else sigmoid_focal_loss
        return self.weighted(loss(
            pred, target, weight, gamma=self.gamma, alpha=self.alpha,
            reduction=self.reduction_of(reduction_override), avg_factor=avg_factor))
