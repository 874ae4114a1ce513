"""The levels of a feature pyramid: their sizes, and how these reach a kernel."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

__all__ = ["level_table"]


def level_table(sizes: Sequence[tuple[int, int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Heights, widths and first rows of levels that follow each other.

    Args:
        sizes: (height, width) of every level.
        device: where the tensors are to be.

    Returns:
        [L, 2] and [L], int64: ``spatial_shapes`` and ``level_start_index``.
    """
    starts = [0, *accumulate(h * w for h, w in sizes)][:len(sizes)]
    numbers = [n for size in sizes for n in size] + starts
    # Filled in on the device: a copy from the host would wait, and a CUDA graph would replay it
    # from memory that is long gone.
    table = torch.cat([torch.full((1,), n, dtype=torch.int64, device=device) for n in numbers])
    return table[:2 * len(sizes)].view(-1, 2), table[2 * len(sizes):]
