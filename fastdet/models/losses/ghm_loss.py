"""Gradient harmonising (arXiv 1811.05181): examples weigh by how many have their gradient norm."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..builder import LOSSES
from .utils import Loss, at_least_float32, one_hot_targets, weight_reduce_loss

__all__ = ["GHMC", "GHMR"]


class _Harmonised(Loss):
    """Bins of gradient norms and the counts in them.

    Args:
        bins: how many.
        momentum: of the running counts; 0 takes each batch on its own.
        last_edge: the upper edge of the last bin.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: multiplies the loss.
    """

    edges: Tensor
    acc_sum: Tensor

    def __init__(self, bins: int, momentum: float, last_edge: float, reduction: str,
                 loss_weight: float) -> None:
        super().__init__(reduction, loss_weight)
        self.bins = bins
        self.momentum = momentum
        edges = torch.arange(bins + 1).float() / bins
        edges[-1] = last_edge
        self.register_buffer("edges", edges)
        if momentum > 0:
            self.register_buffer("acc_sum", torch.zeros(bins))

    def weights(self, norms: Tensor, valid: Tensor, total: Tensor) -> Tensor:
        """``total`` over the population of each element's bin, over the number of filled bins.

        Args:
            norms: gradient norms, any shape.
            valid: which elements count.
            total: how many do.
        """
        bin_of = torch.bucketize(norms, self.edges.to(norms.dtype), right=True) - 1
        inside = valid & (bin_of >= 0) & (bin_of < self.bins)
        bin_of = bin_of.clamp(0, self.bins - 1)
        counts = torch.stack([(inside & (bin_of == i)).sum() for i in range(self.bins)])
        filled = counts > 0
        population = counts
        if self.momentum > 0:
            running = self.momentum * self.acc_sum + (1 - self.momentum) * counts
            self.acc_sum.copy_(torch.where(filled, running, self.acc_sum))
            population = self.acc_sum
        population = at_least_float32(population.to(norms.dtype))
        each = total / population.where(filled, torch.ones_like(population))
        each = each / filled.sum().clamp(min=1)
        return torch.where(inside, each.to(norms.dtype)[bin_of], torch.zeros_like(norms))


@LOSSES.register_module()
class GHMC(_Harmonised):
    """Harmonised sigmoid cross entropy, for classification.

    Args:
        bins: bins of the gradient norm over [0, 1].
        momentum: of the running counts.
        use_sigmoid: must be true.
        loss_weight: multiplies the loss.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
    """

    def __init__(self, bins: int = 10, momentum: float = 0, use_sigmoid: bool = True,
                 loss_weight: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(bins, momentum, 1 + 1e-6, reduction, loss_weight)
        if not use_sigmoid:
            raise ValueError("GHMC is defined for the sigmoid, got use_sigmoid=False")
        self.use_sigmoid = use_sigmoid

    def forward(self, pred: Tensor, target: Tensor, label_weight: Tensor,
                reduction_override: str | None = None, **kwargs: Any) -> Tensor:
        """The loss.

        Args:
            pred: [N, C], logits.
            target: [N] classes, or [N, C] of 0 and 1.
            label_weight: of target's shape; an element counts where it is positive.
            reduction_override: in place of the module's reduction.
            kwargs: not used; what heads pass to every loss (``avg_factor``).
        """
        if pred.dim() != target.dim():
            target = one_hot_targets(target, pred.size(-1))
            label_weight = label_weight[:, None].expand(target.shape)
        target, label_weight = target.float(), label_weight.float()
        valid = label_weight > 0
        total = at_least_float32(valid.to(pred.dtype)).sum().clamp(min=1.0)
        weights = self.weights((pred.sigmoid().detach() - target).abs(), valid, total)
        loss = F.binary_cross_entropy_with_logits(pred, target, reduction="none")
        return self.weighted(weight_reduce_loss(
            loss, weights, self.reduction_of(reduction_override), total))


@LOSSES.register_module()
class GHMR(_Harmonised):
    """Harmonised smooth L1, for box regression.

    Args:
        mu: softens the absolute value: ``sqrt(d^2 + mu^2) - mu``.
        bins: bins of the gradient norm over [0, 1].
        momentum: of the running counts.
        loss_weight: multiplies the loss.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
    """

    def __init__(self, mu: float = 0.02, bins: int = 10, momentum: float = 0,
                 loss_weight: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(bins, momentum, 1e3, reduction, loss_weight)
        self.mu = mu

    def forward(self, pred: Tensor, target: Tensor, label_weight: Tensor,
                avg_factor: float | Tensor | None = None,
                reduction_override: str | None = None) -> Tensor:
        """The loss of [N, 4] ``pred`` and ``target``; ``avg_factor`` is not used."""
        diff = pred - target
        length = torch.sqrt(diff * diff + self.mu * self.mu)
        valid = label_weight > 0
        total = at_least_float32(label_weight).sum().clamp(min=1.0)
        weights = self.weights((diff / length).abs().detach(), valid, total)
        return self.weighted(weight_reduce_loss(
            length - self.mu, weights, self.reduction_of(reduction_override), total))
