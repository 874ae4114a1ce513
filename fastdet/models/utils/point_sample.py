"""Where PointRend and Mask2Former train: points that the predicted masks are unsure of."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["get_uncertain_point_coords_with_randomness", "get_uncertainty"]


def _class_logits(mask_pred: Tensor, labels: Tensor | None) -> Tensor:
    """The channel of each mask's class: ``(N, C, ...)`` and ``(N,)`` to ``(N, 1, ...)``."""
    if mask_pred.shape[1] == 1:
        return mask_pred
    rows = torch.arange(mask_pred.shape[0], device=mask_pred.device)
    return mask_pred[rows, labels].unsqueeze(1)


def get_uncertainty(mask_pred: Tensor, labels: Tensor) -> Tensor:
    """How unsure a mask's logits are: minus their distance from 0.

    Args:
        mask_pred: ``(num_rois, num_classes, ...)`` logits; one class stands for all.
        labels: ``(num_rois,)`` int64, the class of each mask.

    Returns:
        ``(num_rois, 1, ...)``, highest where the logit is 0.
    """
    return -_class_logits(mask_pred, labels).abs()


def get_uncertain_point_coords_with_randomness(
        mask_pred: Tensor, labels: Tensor | None, num_points: int, oversample_ratio: float,
        importance_sample_ratio: float) -> Tensor:
    """Draw points at random and keep the most uncertain; fill up with further random points.

    Args:
        mask_pred: ``(num_rois, num_classes, h, w)`` logits; one class stands for all.
        labels: ``(num_rois,)`` int64, the class of each mask; ``None`` where there is one class.
        num_points: number of points of each mask.
        oversample_ratio: how many points are drawn per point wanted, at least 1.
        importance_sample_ratio: share of the points that is chosen by uncertainty, 0 to 1.

    Returns:
        ``(num_rois, num_points, 2)`` float32, ``(x, y)`` in units of the mask's size.

    Raises:
        ValueError: a ratio is out of range.

    Source: PointRend, https://arxiv.org/abs/1912.08193
    """
    if oversample_ratio < 1:
        raise ValueError(f"oversample_ratio must be at least 1, got {oversample_ratio}")
    if not 0 <= importance_sample_ratio <= 1:
        raise ValueError("importance_sample_ratio must lie in [0, 1], "
                         f"got {importance_sample_ratio}")
    batch, device = mask_pred.shape[0], mask_pred.device
    coords = torch.rand(batch, int(num_points * oversample_ratio), 2, device=device)
    # Channels are sampled independently, so only that of the class need be.
    logits = _class_logits(mask_pred, labels).to(coords.dtype)
    sampled = F.grid_sample(logits, 2 * coords.unsqueeze(2) - 1, align_corners=False)
    num_uncertain = int(importance_sample_ratio * num_points)
    best = sampled[:, 0, :, 0].abs().neg().topk(num_uncertain, dim=1).indices
    coords = coords.gather(1, best.unsqueeze(2).expand(-1, -1, 2))
    if num_uncertain < num_points:
        extra = torch.rand(batch, num_points - num_uncertain, 2, device=device)
        coords = torch.cat((coords, extra), dim=1)
    return coords
