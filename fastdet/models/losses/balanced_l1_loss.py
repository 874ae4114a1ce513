"""Balanced L1 (Libra R-CNN, arXiv 1904.02701, eq. 7)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..builder import LOSSES
from .smooth_l1_loss import distance
from .utils import Loss, weighted_loss

__all__ = ["BalancedL1Loss", "balanced_l1_loss"]


@weighted_loss
def balanced_l1_loss(pred: Tensor, target: Tensor, beta: float = 1.0, alpha: float = 0.5,
                     gamma: float = 1.5, reduction: str = "mean") -> Tensor:
    """Inliers get a larger gradient than in smooth L1, up to ``gamma`` for outliers.

    Args:
        pred: any shape.
        target: the same.
        beta: where inliers end, positive.
        alpha: how much the gradient of inliers is raised.
        gamma: the gradient of outliers.
        reduction: not used here; accepted as MMDetection accepts it.
    """
    if beta <= 0:
        raise ValueError(f"balanced_l1_loss: beta must be positive, got {beta}")
    diff = distance(pred, target)
    if target.numel() == 0:
        return diff
    b = math.exp(gamma / alpha) - 1
    inlier = alpha / b * (b * diff + 1) * torch.log(b * diff / beta + 1) - alpha * diff
    return torch.where(diff < beta, inlier, gamma * diff + gamma / b - alpha * beta)


@LOSSES.register_module()
class BalancedL1Loss(Loss):
    """:func:`balanced_l1_loss` as a module."""

    def __init__(self, alpha: float = 0.5, gamma: float = 1.5, beta: float = 1.0,
                 reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        self.alpha = alpha
        self.gamma = gamma
        self.beta = beta

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None,
                avg_factor: float | Tensor | None = None, reduction_override: str | None = None,
                **kwargs: Any) -> Tensor:
        return self.weighted(balanced_l1_loss(
            pred, target, weight, alpha=self.alpha, gamma=self.gamma, beta=self.beta,
            reduction=self.reduction_of(reduction_override), avg_factor=avg_factor, **kwargs))
