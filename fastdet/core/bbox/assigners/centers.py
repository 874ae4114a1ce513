"""Where the centre of a prior lies with respect to gts, and what several assigners end with."""

from __future__ import annotations

import torch
from torch import Tensor

from .assign_result import AssignResult

__all__ = ["box_centers", "depth_in_boxes", "highest_overlap", "labels_of", "nothing_assigned"]


def box_centers(boxes: Tensor) -> Tensor:
    """Centres [..., 2] of boxes [..., 4]."""
    return (boxes[..., :2] + boxes[..., 2:4]) / 2.0


def depth_in_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """How far points lie inside boxes, the least distance to a side; negative outside.

    Args:
        points: [..., G, 2] or [..., 1, 2].
        boxes: [..., G, 4].

    Returns:
        [..., G].
    """
    return torch.cat([points - boxes[..., :2], boxes[..., 2:4] - points], dim=-1).amin(-1)


def labels_of(gt_inds: Tensor, gt_labels: Tensor | None) -> Tensor | None:
    """The class of each assigned prior, -1 elsewhere; ``None`` without classes.

    Args:
        gt_inds: [N], 1-based; 0 and below is no gt.
        gt_labels: [G].
    """
    if gt_labels is None:
        return None
    if len(gt_labels) == 0:
        return torch.full_like(gt_inds, -1)
    return torch.where(gt_inds > 0, gt_labels[(gt_inds - 1).clamp(min=0)], -1).to(gt_inds.dtype)


def nothing_assigned(like: Tensor, num_gts: int, num_priors: int, gt_labels: Tensor | None,
                     overlaps: bool = True, gt_inds: Tensor | None = None) -> AssignResult:
    """The result where there is no gt (everything is background), or no prior.

    Args:
        like: gives device and type of the overlaps.
        num_gts: G.
        num_priors: N.
        gt_labels: [G], or ``None`` for no labels.
        overlaps: whether the result has them.
        gt_inds: what is known of the priors, zeros by default.
    """
    if gt_inds is None:
        gt_inds = like.new_zeros((num_priors,), dtype=torch.long)
    return AssignResult(
        num_gts, gt_inds, like.new_zeros((num_priors,)) if overlaps else None,
        labels=None if gt_labels is None else torch.full_like(gt_inds, -1))


def highest_overlap(overlaps: Tensor, candidates: Tensor, chosen: Tensor,
                    inf: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of the gts that chose a prior, the one of the highest overlap.

    Args:
        overlaps: [..., N, G].
        candidates: [..., K, G], the priors that each gt considers.
        chosen: [..., K, G], which of them it takes.
        inf: a prior that no gt takes has the overlap ``-inf``.

    Returns:
        The overlap and the gt of each prior, ``[..., N]``, and whether any took it.
    """
    taken = torch.zeros_like(overlaps, dtype=torch.bool).scatter_(-2, candidates, chosen)
    best, gt = torch.where(taken, overlaps, -inf).max(dim=-1)
    return best, gt, taken.any(-1)
