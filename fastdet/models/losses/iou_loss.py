"""Losses on the overlap of boxes: IoU, GIoU, DIoU, CIoU and bounded IoU."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fastdet.core.bbox.iou_calculators import bbox_overlaps

from ..builder import LOSSES
from .utils import Loss, weighted_loss

__all__ = ["BoundedIoULoss", "CIoULoss", "DIoULoss", "GIoULoss", "IoULoss", "bounded_iou_loss",
           "ciou_loss", "diou_loss", "giou_loss", "iou_loss"]


@weighted_loss
def iou_loss(pred: Tensor, target: Tensor, linear: bool = False, mode: str = "log",
             eps: float = 1e-6) -> Tensor:
    """``-log IoU`` (UnitBox, arXiv 1608.01471), or ``1 - IoU``, or ``1 - IoU^2``.

    Args:
        pred: [N, 4], corners.
        target: [N, 4].
        linear: the old spelling of ``mode='linear'``.
        mode: ``'log'``, ``'linear'`` or ``'square'``.
        eps: the smallest IoU that is taken.

    Returns:
        [N] before the reduction.
    """
    if mode not in ("linear", "square", "log"):
        raise ValueError(f"iou_loss: mode must be linear, square or log, got {mode!r}")
    if linear:
        warnings.warn("iou_loss: linear=True is deprecated, use mode='linear'", stacklevel=3)
        mode = "linear"
    ious = bbox_overlaps(pred, target, is_aligned=True).clamp(min=eps)
    if mode == "log":
        return -ious.log()
    return 1 - (ious if mode == "linear" else ious ** 2)


@weighted_loss
def giou_loss(pred: Tensor, target: Tensor, eps: float = 1e-7) -> Tensor:
    """``1 - GIoU`` (arXiv 1902.09630) of [N, 4] boxes."""
    return 1 - bbox_overlaps(pred, target, mode="giou", is_aligned=True, eps=eps)


def _iou_and_centres(pred: Tensor, target: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """IoU, and the squared distance of the centres over that of the enclosing box's corners."""
    lt = torch.max(pred[:, :2], target[:, :2])
    rb = torch.min(pred[:, 2:], target[:, 2:])
    overlap = (rb - lt).clamp(min=0).prod(1)
    union = sum((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (pred, target)) - overlap + eps
    enclosing = (torch.max(pred[:, 2:], target[:, 2:])
                 - torch.min(pred[:, :2], target[:, :2])).clamp(min=0)
    diagonal = enclosing.square().sum(1) + eps
    apart = (target[:, :2] + target[:, 2:]) - (pred[:, :2] + pred[:, 2:])
    return overlap / union, apart.square().sum(1) / 4 / diagonal


@weighted_loss
def diou_loss(pred: Tensor, target: Tensor, eps: float = 1e-7) -> Tensor:
    """``1 - DIoU`` (arXiv 1911.08287): the IoU less the distance of the centres."""
    ious, apart = _iou_and_centres(pred, target, eps)
    return 1 - (ious - apart)


@weighted_loss
def ciou_loss(pred: Tensor, target: Tensor, eps: float = 1e-7) -> Tensor:
    """``1 - CIoU`` (arXiv 2005.03572): DIoU less a term for the aspect ratio, in [-1, 1].

    The ratio counts only where the IoU is above one half, and its weight carries no gradient.
    """
    ious, apart = _iou_and_centres(pred, target, eps)
    angles = [torch.atan((b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1] + eps)) for b in (pred, target)]
    ratio = 4 / math.pi ** 2 * (angles[1] - angles[0]) ** 2
    with torch.no_grad():
        alpha = (ious > 0.5).float() * ratio / (1 - ious + ratio)
    return 1 - (ious - (apart + alpha * ratio)).clamp(min=-1.0, max=1.0)


@weighted_loss
def bounded_iou_loss(pred: Tensor, target: Tensor, beta: float = 0.2, eps: float = 1e-3) -> Tensor:
    """Smooth L1 of upper bounds on the IoU in x, y, w and h alone (arXiv 1711.00164).

    Args:
        pred: [N, 4], corners.
        target: [N, 4].
        beta: where smooth L1 turns linear.
        eps: keeps divisors from zero.

    Returns:
        [N, 4] before the reduction.
    """
    size, wanted = pred[:, 2:] - pred[:, :2], (target[:, 2:] - target[:, :2]).detach()
    off = ((target[:, :2] + target[:, 2:]).detach() * 0.5
           - (pred[:, :2] + pred[:, 2:]) * 0.5).abs()
    centre = 1 - ((wanted - 2 * off) / (wanted + 2 * off + eps)).clamp(min=0)
    extent = 1 - torch.min(wanted / (size + eps), size / (wanted + eps))
    bound = torch.cat([centre, extent], 1)
    return torch.where(bound < beta, 0.5 * bound * bound / beta, bound - 0.5 * beta)


class _BoxLoss(Loss):
    """Weights of boxes: one for a box, or four equal ones as samplers give them."""

    per_box = True
    function: Callable[..., Tensor]

    def options(self) -> dict[str, Any]:
        return {"eps": self.eps}

    def __init__(self, eps: float = 1e-6, reduction: str = "mean",
                 loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        self.eps = eps

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None,
                avg_factor: float | Tensor | None = None, reduction_override: str | None = None,
                **kwargs: Any) -> Tensor:
        reduction = self.reduction_of(reduction_override)
        if weight is not None:
            if pred.numel() == 0 and reduction != "none":
                return pred.sum() * 0  # the mean of nothing would be NaN
            if self.per_box and weight.dim() > 1:
                if weight.shape != pred.shape:
                    raise ValueError(f"{type(self).__name__}: weight must be [N] or of pred's "
                                     f"shape {list(pred.shape)}, got {list(weight.shape)}")
                weight = weight.mean(-1)
        return self.weighted(type(self).function(
            pred, target, weight, reduction=reduction, avg_factor=avg_factor, **self.options(),
            **kwargs))


@LOSSES.register_module()
class IoULoss(_BoxLoss):
    """:func:`iou_loss` as a module.

    Args:
        linear: the old spelling of ``mode='linear'``.
        eps: the smallest IoU that is taken.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: multiplies the loss.
        mode: ``'log'``, ``'linear'`` or ``'square'``.
    """

    function = iou_loss

    def __init__(self, linear: bool = False, eps: float = 1e-6, reduction: str = "mean",
                 loss_weight: float = 1.0, mode: str = "log") -> None:
        super().__init__(eps, reduction, loss_weight)
        if mode not in ("linear", "square", "log"):
            raise ValueError(f"IoULoss: mode must be linear, square or log, got {mode!r}")
        if linear:
            warnings.warn("IoULoss: linear=True is deprecated, use mode='linear'", stacklevel=2)
            mode = "linear"
        self.linear = linear
        self.mode = mode

    def options(self) -> dict[str, Any]:
        return {"mode": self.mode, "eps": self.eps}


@LOSSES.register_module()
class BoundedIoULoss(_BoxLoss):
    """:func:`bounded_iou_loss` as a module; weights are [N, 4]."""

    function = bounded_iou_loss
    per_box = False

    def __init__(self, beta: float = 0.2, eps: float = 1e-3, reduction: str = "mean",
                 loss_weight: float = 1.0) -> None:
        super().__init__(eps, reduction, loss_weight)
        self.beta = beta

    def options(self) -> dict[str, Any]:
        return {"beta": self.beta, "eps": self.eps}


@LOSSES.register_module()
class GIoULoss(_BoxLoss):
    """:func:`giou_loss` as a module."""

    function = giou_loss


@LOSSES.register_module()
class DIoULoss(_BoxLoss):
    """:func:`diou_loss` as a module."""

    function = diou_loss


@LOSSES.register_module()
class CIoULoss(_BoxLoss):
    """:func:`ciou_loss` as a module."""

    function = ciou_loss
