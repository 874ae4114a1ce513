"""Dice (V-Net, arXiv 1606.04797) of masks."""

from __future__ import annotations

from torch import Tensor

from ..builder import LOSSES
from .utils import Loss, weight_reduce_loss

__all__ = ["DiceLoss", "dice_loss"]


def dice_loss(pred: Tensor, target: Tensor, weight: Tensor | None = None, eps: float = 1e-3,
              reduction: str = "mean", naive_dice: bool = False,
              avg_factor: float | Tensor | None = None) -> Tensor:
    """One minus twice the intersection over the sum of both masks.

    Args:
        pred: [N, ...], in [0, 1].
        target: the same shape.
        weight: [N].
        eps: keeps the quotient defined for empty masks.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        naive_dice: the sizes are sums, not sums of squares.
        avg_factor: what the sum is divided by.

    Raises:
        ValueError: ``weight`` is not [N].
    """
    pred, target = pred.flatten(1), target.flatten(1).float()
    both = (pred * target).sum(1)
    if naive_dice:
        loss = 1 - (2 * both + eps) / (pred.sum(1) + target.sum(1) + eps)
    else:
        loss = 1 - 2 * both / (((pred * pred).sum(1) + eps) + ((target * target).sum(1) + eps))
    if weight is not None and weight.shape != loss.shape:
        raise ValueError(f"dice_loss: weight must be {list(loss.shape)}, got {list(weight.shape)}")
    return weight_reduce_loss(loss, weight, reduction, avg_factor)


@LOSSES.register_module()
class DiceLoss(Loss):
    """:func:`dice_loss` as a module.

    Args:
        use_sigmoid: the activation is a sigmoid; there is no other.
        activate: ``pred`` are logits, to be activated here.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        naive_dice: the sizes are sums, not sums of squares.
        loss_weight: multiplies the loss.
        eps: keeps the quotient defined for empty masks.
    """

    def __init__(self, use_sigmoid: bool = True, activate: bool = True, reduction: str = "mean",
                 naive_dice: bool = False, loss_weight: float = 1.0, eps: float = 1e-3) -> None:
        super().__init__(reduction, loss_weight)
        if activate and not use_sigmoid:
            raise ValueError("DiceLoss: sigmoid is the only activation; with use_sigmoid=False "
                             "give activate=False and activated predictions")
        self.use_sigmoid = use_sigmoid
        self.activate = activate
        self.naive_dice = naive_dice
        self.eps = eps

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None,
                reduction_override: str | None = None,
                avg_factor: float | Tensor | None = None) -> Tensor:
        return self.weighted(dice_loss(
            pred.sigmoid() if self.activate else pred, target, weight, eps=self.eps,
            reduction=self.reduction_of(reduction_override), naive_dice=self.naive_dice,
            avg_factor=avg_factor))
