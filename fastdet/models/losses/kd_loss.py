"""Distillation of class scores (arXiv 1503.02531)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..builder import LOSSES
from .utils import Loss, weighted_loss

__all__ = ["KnowledgeDistillationKLDivLoss", "knowledge_distillation_kl_div_loss"]


@weighted_loss
def knowledge_distillation_kl_div_loss(pred: Tensor, soft_label: Tensor, T: int,
                                       detach_target: bool = True) -> Tensor:
    """KL divergence of two softmaxes at temperature ``T``, times ``T^2``.

    Args:
        pred: [N, C], the student's logits.
        soft_label: [N, C], the teacher's.
        T: the temperature.
        detach_target: the teacher gets no gradient.

    Returns:
        [N] before the reduction, means over the classes.

    Raises:
        ValueError: the shapes differ.
    """
    if pred.shape != soft_label.shape:
        raise ValueError("knowledge_distillation_kl_div_loss: pred and soft_label must have one "
                         f"shape, got {list(pred.shape)} and {list(soft_label.shape)}")
    target = F.softmax(soft_label / T, dim=1)
    if detach_target:
        target = target.detach()
    return F.kl_div(F.log_softmax(pred / T, dim=1), target, reduction="none").mean(1) * (T * T)


# The name that LDHead has by default.
@LOSSES.register_module(["KnowledgeDistillationKLDivLoss", "LocalizationDistillationLoss"])
class KnowledgeDistillationKLDivLoss(Loss):
    """:func:`knowledge_distillation_kl_div_loss` as a module.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: multiplies the loss.
        T: the temperature, at least 1.
    """

    def __init__(self, reduction: str = "mean", loss_weight: float = 1.0, T: int = 10) -> None:
        super().__init__(reduction, loss_weight)
        if T < 1:
            raise ValueError(f"KnowledgeDistillationKLDivLoss: T must be at least 1, got {T}")
        self.T = T

    def forward(self, pred: Tensor, soft_label: Tensor, weight: Tensor | None = None,
                avg_factor: float | Tensor | None = None,
                reduction_override: str | None = None) -> Tensor:
        return self.weighted(knowledge_distillation_kl_div_loss(
            pred, soft_label, weight, reduction=self.reduction_of(reduction_override),
            avg_factor=avg_factor, T=self.T))
