"""Focal loss of heatmaps (CornerNet, arXiv 1808.01244, eq. 1)."""

from __future__ import annotations

from torch import Tensor

from fastdet.kernels.focal_losses import gaussian_focal_loss

from ..builder import LOSSES
from .utils import Loss

__all__ = ["GaussianFocalLoss", "gaussian_focal_loss"]


@LOSSES.register_module()
class GaussianFocalLoss(Loss):
    """Gaussian focal loss as a module.

    Args:
        alpha: exponent of the focus on hard examples.
        gamma: exponent that spares the surroundings of a centre.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: multiplies the loss.
    """

    def __init__(self, alpha: float = 2.0, gamma: float = 4.0, reduction: str = "mean",
                 loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        self.alpha = alpha
        self.gamma = gamma

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None,
                avg_factor: float | Tensor | None = None,
                reduction_override: str | None = None) -> Tensor:
        """The loss of probabilities and targets of one shape."""
        return self.weighted(gaussian_focal_loss(
            pred, target, weight, alpha=self.alpha, gamma=self.gamma,
            reduction=self.reduction_of(reduction_override), avg_factor=avg_factor))
