"""Valid flags in plain torch: the definition, the CPU path and the tests' oracle."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..pyramid import level_rows, split_levels

__all__ = ["valid_flags_reference"]


def valid_flags_reference(valid_sizes: Sequence[Sequence[tuple[int, int]]],
                          counts: Sequence[int], sizes: Sequence[tuple[int, int]],
                          device: torch.device) -> Tensor:
    """True where a prior's cell is valid; arguments as of :func:`valid_flags`."""
    rows = level_rows(sizes, counts)
    out = torch.zeros(len(valid_sizes), sum(rows), dtype=torch.bool, device=device)
    for flags, valid in zip(out, valid_sizes):
        for level, a, (h, w), (valid_h, valid_w) in zip(
                split_levels(flags, rows), counts, sizes, valid):
            level.view(h, w, a)[:valid_h, :valid_w] = True
    return out
