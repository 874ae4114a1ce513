"""Weights, reductions and average factors: what every loss ends with."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["REDUCTIONS", "Loss", "at_least_float32", "check_reduction",
           "cross_entropy_of_probabilities", "one_hot_targets", "reduce_loss",
           "weight_reduce_loss", "weighted_loss"]

REDUCTIONS = ("none", "mean", "sum")


def at_least_float32(tensor: Tensor) -> Tensor:
    """``tensor`` in float32 where its type is narrower or no floating-point one."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def cross_entropy_of_probabilities(pred: Tensor, target: Tensor) -> Tensor:
    """``F.binary_cross_entropy`` of each element, in float32 at least.

    Under autocast, too, which forbids that function: the logarithm needs the digits.
    """
    with torch.autocast(pred.device.type, enabled=False):
        return F.binary_cross_entropy(at_least_float32(pred), at_least_float32(target),
                                      reduction="none")


def check_reduction(reduction: str) -> str:
    """``reduction`` itself.

    Raises:
        ValueError: it is not one of :data:`REDUCTIONS`.
    """
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    return reduction


def reduce_loss(loss: Tensor, reduction: str) -> Tensor:
    """Mean or sum of all elements, or the loss as it is."""
    if check_reduction(reduction) == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def weight_reduce_loss(loss: Tensor, weight: Tensor | None = None, reduction: str = "mean",
                       avg_factor: float | Tensor | None = None) -> Tensor:
    """Weight a loss element by element, then reduce it.

    Args:
        loss: any shape.
        weight: of a shape that broadcasts to ``loss``.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        avg_factor: what the sum is divided by in place of the number of elements. It goes with
            ``'mean'``; with ``'none'`` it is not used. MMDetection adds float32's machine epsilon
            to it, so that a factor of zero is no error.

    Raises:
        ValueError: ``avg_factor`` together with ``'sum'``.
    """
    if weight is not None:
        loss = loss * weight
    if avg_factor is None or reduction == "none":
        return reduce_loss(loss, reduction)
    if check_reduction(reduction) != "mean":
        raise ValueError("avg_factor cannot be used with reduction='sum': a sum is not divided")
    if isinstance(avg_factor, Tensor):
        avg_factor = at_least_float32(avg_factor.to(loss.dtype))
    return loss.sum() / (avg_factor + torch.finfo(torch.float32).eps)


def weighted_loss(loss_func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Give an element-wise ``f(pred, target, **kwargs)`` weight, reduction and average factor.

    The result is called ``f(pred, target, weight=None, reduction='mean', avg_factor=None, ...)``.
    """
    @functools.wraps(loss_func)
    def wrapper(pred: Tensor, target: Tensor, weight: Tensor | None = None,
                reduction: str = "mean", avg_factor: float | Tensor | None = None,
                **kwargs: Any) -> Tensor:
        return weight_reduce_loss(loss_func(pred, target, **kwargs), weight, reduction, avg_factor)

    return wrapper


def one_hot_targets(labels: Tensor, num_classes: int) -> Tensor:
    """``[N, C]`` bool; a label outside ``[0, C)``, background among them, has an empty row."""
    return labels[:, None] == torch.arange(num_classes, device=labels.device)


class Loss(nn.Module):
    """What the loss modules share: the reduction, which a call may override, and the weight.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: multiplies the reduced loss.
    """

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0) -> None:
        super().__init__()
        self.reduction = check_reduction(reduction)
        self.loss_weight = loss_weight

    def weighted(self, loss: Tensor) -> Tensor:
        """``loss`` times the weight, or itself: most weights are one, and a product is launched,
        and again for the backward pass."""
        weight = self.loss_weight
        return loss if isinstance(weight, (int, float)) and weight == 1 else weight * loss

    def reduction_of(self, override: str | None) -> str:
        """The reduction in force for one call."""
        return self.reduction if override is None else check_reduction(override)
