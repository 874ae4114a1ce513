"""Batches of several kinds of images, as semi-supervised detectors have them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["split_batch"]


def split_batch(img: Tensor, img_metas: list[dict[str, Any]],
                kwargs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A batch by the ``tag`` in its images' metas.

    Args:
        img: [B, C, H, W].
        img_metas: of each image, with ``tag``, such as ``'sup'`` and ``'unsup'``.
        kwargs: other lists, or tensors, with an entry for each image. It is not changed.

    Returns:
        Of each tag ``img``, ``img_metas`` and the rest, for its images alone.
    """
    tags = [meta["tag"] for meta in img_metas]
    batch = {**kwargs, "img": img, "img_metas": img_metas}
    groups = {}
    for tag in dict.fromkeys(tags):
        rows = [i for i, own in enumerate(tags) if own == tag]
        groups[tag] = {name: torch.stack([values[i] for i in rows])
                       if isinstance(values, Tensor) else [values[i] for i in rows]
                       for name, values in batch.items()}
    return groups
