"""Random sampling of a whole batch, of a fixed size and without a host sync."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["random_masks"]


def _first(mask: Tensor, order: Tensor, limit: int | Tensor) -> Tensor:
    """The first ``limit`` true elements of each row, in the order of ``order``."""
    ranked = mask.gather(1, order)
    taken = ranked & (ranked.cumsum(1) <= limit)
    return torch.zeros_like(mask).scatter_(1, order, taken)


def random_masks(gt_inds: Tensor, num: int, pos_fraction: float,
                 neg_pos_ub: float = -1) -> tuple[Tensor, Tensor]:
    """Positives and negatives at random, as ``RandomSampler`` draws them for one image.

    A permutation of all candidates ranks them, and the first positives (negatives) are taken: how
    many there are need not be known to draw.

    Args:
        gt_inds: [B, N]: above 0 a positive, 0 a negative, below it neither.
        num: how many of each image.
        pos_fraction: at most this share of them are positives.
        neg_pos_ub: at most so many negatives for each positive; -1 sets no bound.

    Returns:
        Two masks ``[B, N]``.
    """
    b, n = gt_inds.shape

    def order() -> Tensor:  # drawn on the CPU, so that a seed gives the same one everywhere
        return torch.stack([torch.randperm(n) for _ in range(b)]).to(gt_inds.device)

    pos = _first(gt_inds > 0, order(), int(num * pos_fraction))
    drawn = pos.sum(1, keepdim=True)
    limit = num - drawn
    if neg_pos_ub >= 0:
        limit = torch.minimum(limit, (neg_pos_ub * drawn.clamp(min=1)).long())
    return pos, _first(gt_inds == 0, order(), limit)
