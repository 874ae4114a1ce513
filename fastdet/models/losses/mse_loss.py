"""Squared error."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..builder import LOSSES
from .utils import Loss, weighted_loss

__all__ = ["MSELoss", "mse_loss"]


@weighted_loss
def mse_loss(pred: Tensor, target: Tensor) -> Tensor:
    """``(pred - target)^2``."""
    return F.mse_loss(pred, target, reduction="none")


@LOSSES.register_module()
class MSELoss(Loss):
    """:func:`mse_loss` as a module."""

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None,
                avg_factor: float | Tensor | None = None,
                reduction_override: str | None = None) -> Tensor:
        return self.weighted(mse_loss(
            pred, target, weight, reduction=self.reduction_of(reduction_override),
            avg_factor=avg_factor))
