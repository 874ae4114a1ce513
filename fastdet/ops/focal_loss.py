"""Focal losses with mmcv's arguments."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastdet.kernels import focal_losses as _operators

__all__ = ["SigmoidFocalLoss", "SoftmaxFocalLoss", "sigmoid_focal_loss", "softmax_focal_loss"]


def _check(name: str, input: Tensor, target: Tensor, weight: Tensor | None) -> None:
    if input.dim() != 2 or target.shape != input.shape[:1]:
        raise ValueError(f"{name}: input must be [N, C] and target [N], got {list(input.shape)} "
                         f"and {list(target.shape)}")
    if weight is not None and weight.shape != input.shape[1:]:
        raise ValueError(f"{name}: weight must be [{input.shape[1]}], got {list(weight.shape)}")


def sigmoid_focal_loss(input: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25,
                       weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Focal loss of independent classes (`arXiv 1708.02002 <https://arxiv.org/abs/1708.02002>`_).

    Args:
        input: logits ``(N, C)``.
        target: int64 labels ``(N,)``; ``C`` is background.
        gamma: exponent of the focus on hard examples.
        alpha: weight of targets, against 1 - alpha of the background.
        weight: ``(C,)``, of a row by its label; background counts one.
        reduction: ``'none'``, ``'mean'`` (over the N rows) or ``'sum'``.

    Returns:
        ``(N, C)`` for ``'none'``, else a scalar.

    Raises:
        ValueError: shapes or the reduction do not fit.
    """
    _check("sigmoid_focal_loss", input, target, weight)
    rows = None
    if weight is not None:
        table = torch.cat([weight, weight.new_ones(1)])
        known = (target >= 0) & (target < input.shape[1])
        rows = table[torch.where(known, target, input.shape[1])]
    if reduction == "mean":
        return _operators.sigmoid_focal_loss(input, target, rows, gamma, alpha, "sum") / len(input)
    return _operators.sigmoid_focal_loss(input, target, rows, gamma, alpha, reduction)


def softmax_focal_loss(input: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25,
                       weight: Tensor | None = None, reduction: str = "mean") -> Tensor:
    """Focal loss of exclusive classes: -alpha (1 - p)^gamma log(p) of the label's probability.

    Args:
        input: logits ``(N, C)``.
        target: int64 labels ``(N,)`` in 0..C-1; a negative one has no loss.
        gamma: exponent of the focus on hard examples.
        alpha: factor.
        weight: ``(C,)``, by label.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Returns:
        ``(N,)`` for ``'none'``, else a scalar.

    Raises:
        ValueError: shapes or the reduction do not fit.
    """
    _check("softmax_focal_loss", input, target, weight)
    return _operators.softmax_focal_loss(input, target, weight, gamma, alpha, reduction)


class _FocalLoss(nn.Module):
    """A focal loss with its settings; ``weight`` is a buffer, not a parameter."""

    weight: Tensor | None

    def __init__(self, gamma: float, alpha: float, weight: Tensor | None = None,
                 reduction: str = "mean") -> None:
        super().__init__()
        self.gamma = gamma
        self.alpha = alpha
        self.register_buffer("weight", weight)
        self.reduction = reduction

    def extra_repr(self) -> str:
        return f"gamma={self.gamma}, alpha={self.alpha}, reduction={self.reduction}"


class SigmoidFocalLoss(_FocalLoss):
    """:func:`sigmoid_focal_loss` as a module."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of ``input`` and ``target``; see :func:`sigmoid_focal_loss`."""
        return sigmoid_focal_loss(input, target, self.gamma, self.alpha, self.weight,
                                  self.reduction)


class SoftmaxFocalLoss(_FocalLoss):
    """:func:`softmax_focal_loss` as a module."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of ``input`` and ``target``; see :func:`softmax_focal_loss`."""
        return softmax_focal_loss(input, target, self.gamma, self.alpha, self.weight,
                                  self.reduction)
