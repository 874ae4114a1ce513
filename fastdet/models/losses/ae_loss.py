"""Associative embedding (CornerNet, arXiv 1808.01244, eq. 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..builder import LOSSES

__all__ = ["AssociativeEmbeddingLoss", "ae_loss_per_image"]

#: Of each object, (y, x) of its top-left and of its bottom-right corner.
Match = Sequence[Sequence[Sequence[int]]]


def ae_loss_per_image(tl_preds: Tensor, br_preds: Tensor, match: Match) -> tuple[Tensor, Tensor]:
    """Pull the embeddings of an object's two corners together, push objects apart.

    Args:
        tl_preds: [1, H, W], embeddings of top-left corners.
        br_preds: [1, H, W], of bottom-right corners.
        match: the corners of each object.

    Returns:
        The pull and the push loss, scalars; zero where there are no objects (or no pair of them).
    """
    n = len(match)
    if n == 0:
        return tl_preds.sum() * 0.0, tl_preds.sum() * 0.0
    at = torch.as_tensor(match, dtype=torch.long).reshape(n, 2, 2).to(tl_preds.device)
    tl = tl_preds[0, at[:, 0, 0], at[:, 0, 1]]
    br = br_preds[0, at[:, 1, 0], at[:, 1, 1]]
    mean = (tl + br) / 2
    pull = ((tl - mean) ** 2 + (br - mean) ** 2).sum() / n
    if n == 1:
        return pull, tl_preds.sum() * 0.0
    margin = 1  # the push stops where two means are this far apart
    apart = (margin - (mean[:, None] - mean[None, :]).abs()).relu()
    push = (apart.sum() - n * margin) / (n * (n - 1))  # the diagonal is `margin` each
    return pull, push


@LOSSES.register_module()
class AssociativeEmbeddingLoss(nn.Module):
    """:func:`ae_loss_per_image`, summed over the images.

    Args:
        pull_weight: of the pull loss.
        push_weight: of the push loss.
    """

    def __init__(self, pull_weight: float = 0.25, push_weight: float = 0.25) -> None:
        super().__init__()
        self.pull_weight = pull_weight
        self.push_weight = push_weight

    def forward(self, pred: Tensor, target: Tensor,
                match: Sequence[Match]) -> tuple[Tensor, Tensor]:
        """Losses of [B, 1, H, W] top-left (``pred``) and bottom-right (``target``) embeddings."""
        losses = [ae_loss_per_image(*each) for each in zip(pred, target, match)]
        pull, push = (torch.stack(part).sum() for part in zip(*losses))
        return self.pull_weight * pull, self.push_weight * push
