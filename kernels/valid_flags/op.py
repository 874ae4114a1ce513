"""Valid flags: checks, dispatch and launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..dispatch import Reason, tracing, use_triton
from ..launch import launch
from ..pyramid import (
    MAX_LEVELS,
    check_levels,
    chunks,
    flatten,
    grid_reason,
    level_rows,
    level_words,
    num_blocks,
    pack,
    pairs,
)
from .reference import valid_flags_reference

__all__ = ["can_run_valid_flags", "valid_flags"]

#: Images that one launch takes; more images take more launches.
MAX_IMAGES = 8

#: Flags that one program writes: eight bytes a thread.
BLOCK = 1024
OPTIONS = {"BLOCK": BLOCK, "num_warps": 4}


def can_run_valid_flags(counts: Sequence[int], sizes: Sequence[tuple[int, int]]) -> Reason | None:
    """Why the kernel cannot write flags for this grid, or ``None`` if it can."""
    return grid_reason(sizes, counts)


def valid_flags(valid_sizes: Sequence[Sequence[tuple[int, int]]], counts: Sequence[int],
                sizes: Sequence[tuple[int, int]], *, device: torch.device | str = "cpu") -> Tensor:
    """Mark the priors whose cells lie inside each image of a batch.

    One kernel launch writes all levels of all images (eight images and eight levels a launch);
    where everything is valid it is one fill. Sizes travel as kernel parameters: no copy, no
    synchronisation, and no new compilation for a new size.

    Args:
        valid_sizes: for every image and level, the (height, width) of its valid cells; they are
            the first ones along each axis.
        counts: priors of a cell, of each level.
        sizes: (height, width) of each level's feature map.
        device: where the result lies.

    Returns:
        [B, N] bool; N is ordered by level, y, x and prior of the cell.

    Raises:
        ValueError: tables of different lengths, a negative size, or a valid size that is larger
            than its feature map.
    """
    check_levels(sizes, counts=counts)
    for image in valid_sizes:
        check_levels(sizes, valid_sizes=image)
        for (valid_h, valid_w), (h, w) in zip(image, sizes):
            if not (0 <= valid_h <= h and 0 <= valid_w <= w):
                raise ValueError(f"a valid (height, width) must lie within its feature map's "
                                 f"({h}, {w}), got ({valid_h}, {valid_w})")
    flat = [value for image in valid_sizes for value in flatten(image)]
    run = _flags_op if tracing() else _valid_flags
    return run(flat, len(valid_sizes), list(counts), flatten(sizes), torch.device(device))


def _valid_flags(valid_sizes: Sequence[int], images: int, counts: Sequence[int],
                 sizes: Sequence[int], device: torch.device) -> Tensor:
    levels = pairs(sizes)
    rows = level_rows(levels, counts)
    if list(valid_sizes) == list(sizes) * images:
        return torch.ones(images, sum(rows), dtype=torch.bool, device=device)
    valid = pairs(valid_sizes)
    per_image = [valid[i * len(levels):(i + 1) * len(levels)] for i in range(images)]
    if not use_triton("valid_flags", device, can_run_valid_flags(counts, levels)):
        return valid_flags_reference(per_image, counts, levels, device)

    from .kernel import valid_flags_fwd_kernel

    out = torch.empty(images, sum(rows), dtype=torch.uint8, device=device)
    for part in chunks(len(rows), MAX_LEVELS):
        words = level_words(levels[part], counts[part])
        blocks = num_blocks(rows[part], BLOCK)
        for batch in chunks(images, MAX_IMAGES):
            launch(valid_flags_fwd_kernel, (blocks, batch.stop - batch.start),
                   out[batch.start:, sum(rows[:part.start]):], sum(rows), *words,
                   *_valid_arguments([image[part] for image in per_image[batch]]),
                   device=out.device, **OPTIONS)
    return out.view(torch.bool)


_flags_op = torch.library.custom_op(
    "fastdet::valid_flags", _valid_flags, mutates_args=(),
    schema="(SymInt[] valid_sizes, int images, int[] counts, SymInt[] sizes, Device device) "
           "-> Tensor")


@_flags_op.register_fake
def _(valid_sizes: Sequence[int], images: int, counts: Sequence[int], sizes: Sequence[int],
      device: torch.device) -> Tensor:
    rows = sum(level_rows(pairs(sizes), counts))
    return torch.empty(images, rows, dtype=torch.bool, device=device)


def _valid_arguments(images: Sequence[Sequence[tuple[int, int]]]) -> list[int]:
    words = []
    for image in images:
        fields = flatten(image)
        words += [pack(fields[i:i + 4]) for i in range(0, 2 * MAX_LEVELS, 4)]
    return words + [pack(())] * (MAX_IMAGES * MAX_LEVELS // 2 - len(words))
