"""Associative embedding (CornerNet, arXiv 1808.01244, eq. 4 and 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..builder import LOSSES

__all__ = ["AssociativeEmbeddingLoss", "ae_loss_per_image"]

#: Of each object, (y, x) of its top-left and of its bottom-right corner; or a tensor [n, 2, 2].
Match = Sequence[Sequence[Sequence[int]]] | Tensor

#: The push stops where the means of two objects are this far apart.
MARGIN = 1


def _ae_losses(tl_preds: Tensor, br_preds: Tensor,
               match: Sequence[Match]) -> tuple[Tensor, Tensor]:
    """Pull and push loss of each image, ``[B]``, from embeddings [B, 1, H, W]."""
    width = max(len(one) for one in match)
    device = tl_preds.device
    at = torch.zeros(len(match), width, 2, 2, dtype=torch.long, device=device)
    for i, one in enumerate(match):
        at[i, :len(one)] = torch.as_tensor(one, dtype=torch.long).reshape(-1, 2, 2).to(device)
    n = torch.tensor([len(one) for one in match]).to(device, non_blocking=True)
    there = torch.arange(width, device=device) < n[:, None]
    n = n.to(tl_preds.dtype)

    cell = at[..., 0] * tl_preds.shape[-1] + at[..., 1]
    tl = tl_preds[:, 0].flatten(1).gather(1, cell[..., 0])
    br = br_preds[:, 0].flatten(1).gather(1, cell[..., 1])
    mean = (tl + br) / 2
    pull = (((tl - mean) ** 2 + (br - mean) ** 2) * there).sum(1) / n.clamp(min=1)
    apart = (MARGIN - (mean[:, :, None] - mean[:, None]).abs()).relu()
    both = there[:, :, None] & there[:, None]
    # Each object is MARGIN from being apart from itself.
    push = ((apart * both).sum((1, 2)) - n * MARGIN) / (n * (n - 1)).clamp(min=1)
    return pull, push


def ae_loss_per_image(tl_preds: Tensor, br_preds: Tensor, match: Match) -> tuple[Tensor, Tensor]:
    """Pull the embeddings of an object's two corners together, push objects apart.

    Args:
        tl_preds: [1, H, W], embeddings of top-left corners.
        br_preds: [1, H, W], of bottom-right corners.
        match: the corners of each object.

    Returns:
        The pull and the push loss, scalars; zero where there are no objects (or no pair of them).
    """
    pull, push = _ae_losses(tl_preds[None], br_preds[None], [match])
    return pull[0], push[0]


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
        pull, push = _ae_losses(pred, target, match)
        return self.pull_weight * pull.sum(), self.push_weight * push.sum()
