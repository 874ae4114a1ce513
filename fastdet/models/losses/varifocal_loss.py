"""Varifocal loss (VarifocalNet, arXiv 2008.13367)."""

from __future__ import annotations

from torch import Tensor

from fastdet.kernels.focal_losses import varifocal_loss

from ..builder import LOSSES
from .utils import Loss

__all__ = ["VarifocalLoss", "varifocal_loss"]


@LOSSES.register_module()
class VarifocalLoss(Loss):
    """Varifocal loss as a module.

    Args:
        use_sigmoid: must be true.
        alpha: weight of the background.
        gamma: exponent of the focus on hard backgrounds.
        iou_weighted: weigh objects by their target, rather than by one.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: multiplies the loss.
    """

    def __init__(self, use_sigmoid: bool = True, alpha: float = 0.75, gamma: float = 2.0,
                 iou_weighted: bool = True, reduction: str = "mean",
                 loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        if not use_sigmoid or alpha < 0:
            raise ValueError("VarifocalLoss is defined for the sigmoid and alpha >= 0, got "
                             f"use_sigmoid={use_sigmoid} and alpha={alpha}")
        self.use_sigmoid = use_sigmoid
        self.alpha = alpha
        self.gamma = gamma
        self.iou_weighted = iou_weighted

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None,
                avg_factor: float | Tensor | None = None,
                reduction_override: str | None = None) -> Tensor:
        """The loss of [N, C] ``pred``; ``target`` [N, C] is the overlap, 0 for background."""
        return self.weighted(varifocal_loss(
            pred, target, weight, alpha=self.alpha, gamma=self.gamma,
            iou_weighted=self.iou_weighted, reduction=self.reduction_of(reduction_override),
            avg_factor=avg_factor))
