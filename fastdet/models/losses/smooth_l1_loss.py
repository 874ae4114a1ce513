"""L1 and its smooth form (Fast R-CNN, arXiv 1504.08083, eq. 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..builder import LOSSES
from .utils import Loss, weighted_loss

__all__ = ["L1Loss", "SmoothL1Loss", "l1_loss", "smooth_l1_loss"]


def distance(pred: Tensor, target: Tensor) -> Tensor:
    """``|pred - target|``; zero, with a gradient, where there are no targets.

    Raises:
        ValueError: the shapes differ.
    """
    if target.numel() == 0:
        return pred.sum() * 0
    if pred.shape != target.shape:
        raise ValueError(f"pred and target must have one shape, got {list(pred.shape)} and "
                         f"{list(target.shape)}")
    return (pred - target).abs()


@weighted_loss
def smooth_l1_loss(pred: Tensor, target: Tensor, beta: float = 1.0) -> Tensor:
    """Quadratic below ``beta``, linear above it.

    Args:
        pred: any shape.
        target: the same.
        beta: where the two pieces meet, positive.
    """
    if beta <= 0:
        raise ValueError(f"smooth_l1_loss: beta must be positive, got {beta}")
    diff = distance(pred, target)
    if target.numel() == 0:
        return diff
    return torch.where(diff < beta, 0.5 * diff * diff / beta, diff - 0.5 * beta)


@weighted_loss
def l1_loss(pred: Tensor, target: Tensor) -> Tensor:
    """``|pred - target|``."""
    return distance(pred, target)


@LOSSES.register_module()
class SmoothL1Loss(Loss):
    """:func:`smooth_l1_loss` as a module.

    Args:
        beta: where the quadratic and the linear piece meet.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: multiplies the loss.
    """

    def __init__(self, beta: float = 1.0, reduction: str = "mean",
                 loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        self.beta = beta

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None,
                avg_factor: float | Tensor | None = None, reduction_override: str | None = None,
                **kwargs: Any) -> Tensor:
        return self.weighted(smooth_l1_loss(
            pred, target, weight, beta=self.beta, reduction=self.reduction_of(reduction_override),
            avg_factor=avg_factor, **kwargs))


@LOSSES.register_module()
class L1Loss(Loss):
    """:func:`l1_loss` as a module."""

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None,
                avg_factor: float | Tensor | None = None,
                reduction_override: str | None = None) -> Tensor:
        return self.weighted(l1_loss(
            pred, target, weight, reduction=self.reduction_of(reduction_override),
            avg_factor=avg_factor))
