"""Seesaw loss (arXiv 2008.10032) for long-tailed classes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..builder import LOSSES
from .accuracy import accuracy
from .cross_entropy_loss import cross_entropy
from .utils import check_reduction, weight_reduce_loss

__all__ = ["SeesawLoss", "seesaw_ce_loss"]


def seesaw_ce_loss(cls_score: Tensor, labels: Tensor, label_weights: Tensor | None,
                   cum_samples: Tensor, num_classes: int, p: float, q: float, eps: float,
                   reduction: str = "mean", avg_factor: float | Tensor | None = None) -> Tensor:
    """Cross entropy whose negative logits are lowered for rarer classes (eq. 5 to 7).

    Args:
        cls_score: [N, C], logits.
        labels: [N], classes.
        label_weights: [N].
        cum_samples: [C], how many examples of each class were seen.
        num_classes: C.
        p: exponent of the mitigation factor; 0 leaves it out.
        q: exponent of the compensation factor; 0 leaves it out.
        eps: the smallest score of the own class that is divided by.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        avg_factor: what the sum is divided by.
    """
    if cls_score.size(-1) != num_classes or len(cum_samples) != num_classes:
        raise ValueError(f"seesaw_ce_loss: {num_classes} classes, but {cls_score.size(-1)} scores "
                         f"and {len(cum_samples)} counts")
    factors = torch.ones_like(cls_score)
    if p > 0:
        seen = cum_samples.clamp(min=1)
        ratio = seen[None, :] / seen[:, None]
        factors = factors * torch.where(ratio < 1, ratio.pow(p), torch.ones_like(ratio))[labels]
    if q > 0:
        scores = F.softmax(cls_score.detach(), dim=1)
        own = scores.gather(1, labels[:, None]).clamp(min=eps)
        ratio = scores / own
        factors = factors * torch.where(ratio > 1, ratio.pow(q), torch.ones_like(ratio))
    other = labels[:, None] != torch.arange(num_classes, device=labels.device)
    loss = F.cross_entropy(cls_score + factors.log() * other.float(), labels, reduction="none")
    weights = None if label_weights is None else label_weights.float()
    return weight_reduce_loss(loss, weights, reduction, avg_factor)


@LOSSES.register_module()
class SeesawLoss(nn.Module):
    """Seesaw loss over the classes, plain cross entropy of object against background.

    Scores have ``num_classes + 2`` channels; the last two are object and background.

    Args:
        use_sigmoid: must be false.
        p: exponent of the mitigation factor.
        q: exponent of the compensation factor.
        num_classes: foreground classes; background is the label ``num_classes``.
        eps: the smallest score of the own class that is divided by.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: multiplies both losses.
        return_dict: return them apart, not their sum.
    """

    cum_samples: Tensor

    def __init__(self, use_sigmoid: bool = False, p: float = 0.8, q: float = 2.0,
                 num_classes: int = 1203, eps: float = 1e-2, reduction: str = "mean",
                 loss_weight: float = 1.0, return_dict: bool = True) -> None:
        super().__init__()
        if use_sigmoid:
            raise ValueError("SeesawLoss is defined for the softmax, got use_sigmoid=True")
        self.use_sigmoid = False
        self.p = p
        self.q = q
        self.num_classes = num_classes
        self.eps = eps
        self.reduction = check_reduction(reduction)
        self.loss_weight = loss_weight
        self.return_dict = return_dict
        self.cls_criterion = seesaw_ce_loss
        self.register_buffer("cum_samples", torch.zeros(num_classes + 1, dtype=torch.float))
        # What a box head asks a loss for when channels, activation and accuracy are its own.
        self.custom_cls_channels = True
        self.custom_activation = True
        self.custom_accuracy = True

    def _split(self, cls_score: Tensor) -> tuple[Tensor, Tensor]:
        if cls_score.size(-1) != self.num_classes + 2:
            raise ValueError(f"SeesawLoss: scores must have {self.num_classes + 2} channels "
                             f"({self.num_classes} classes, object, background), got "
                             f"{cls_score.size(-1)}")
        return cls_score[..., :-2], cls_score[..., -2:]

    def get_cls_channels(self, num_classes: int) -> int:
        """Channels of the classifier for ``num_classes`` foreground classes."""
        if num_classes != self.num_classes:
            raise ValueError(f"SeesawLoss was made for {self.num_classes} classes, the head has "
                             f"{num_classes}")
        return num_classes + 2

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """Probabilities [N, C + 1] of logits [N, C + 2]: of each class and of background."""
        classes, objectness = (F.softmax(s, dim=-1) for s in self._split(cls_score))
        return torch.cat([classes * objectness[..., :1], objectness[..., 1:]], dim=-1)

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Accuracy of object against background, and of the classes of the objects."""
        classes, objectness = self._split(cls_score)
        is_object = labels < self.num_classes
        acc = {"acc_objectness": accuracy(objectness, (~is_object).long()),
               "acc_classes": accuracy(classes[is_object], labels[is_object])}
        return acc  # type: ignore[return-value]

    def forward(self, cls_score: Tensor, labels: Tensor, label_weights: Tensor | None = None,
                avg_factor: float | Tensor | None = None,
                reduction_override: str | None = None) -> Tensor | dict[str, Tensor]:
        """The losses of [N, C + 2] logits and [N] labels; the counts of classes are kept up."""
        reduction = (self.reduction if reduction_override is None else
                     check_reduction(reduction_override))
        classes, objectness = self._split(cls_score)
        known = torch.arange(self.num_classes + 1, device=labels.device)
        self.cum_samples += (labels[:, None] == known).sum(0)
        if label_weights is None:
            label_weights = labels.new_ones(labels.size(), dtype=torch.float)
        is_object = labels < self.num_classes
        of_classes = self.loss_weight * self._over_objects(
            classes, labels, label_weights, is_object, reduction, avg_factor)
        of_objectness = self.loss_weight * cross_entropy(
            objectness, (~is_object).long(), label_weights, reduction, avg_factor)
        if self.return_dict:
            return {"loss_cls_objectness": of_objectness, "loss_cls_classes": of_classes}
        return of_classes + of_objectness

    def _over_objects(self, classes: Tensor, labels: Tensor, label_weights: Tensor,
                      is_object: Tensor, reduction: str,
                      avg_factor: float | Tensor | None) -> Tensor:
        """The seesaw loss of the rows that are objects, without selecting them (no host sync)."""
        counts = self.cum_samples[:self.num_classes]
        if reduction == "none":
            return self.cls_criterion(
                classes[is_object], labels[is_object], label_weights[is_object], counts,
                self.num_classes, self.p, self.q, self.eps, reduction)
        loss = self.cls_criterion(
            classes, labels.clamp(max=self.num_classes - 1),
            label_weights.float() * is_object.float(), counts, self.num_classes, self.p, self.q,
            self.eps, "none")
        if reduction == "mean" and avg_factor is None:
            return loss.sum() / is_object.sum().clamp(min=1)
        return weight_reduce_loss(loss, None, reduction, avg_factor)
