"""The levels of a feature pyramid: their sizes, and how these reach a kernel.

A kernel's parameters are the one table that travels with a launch for free. A level's (height,
width, rows per cell) and an image's valid sizes are small, so several share one 64-bit parameter:
four fields of 15 bits. Bit 62 is always set, which keeps the parameter an ``i64`` whatever its
fields hold, so that one compiled kernel serves every image size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TypeVar

import torch
from torch import Tensor

from .dispatch import Reason, tracing

__all__ = ["MAX_LEVELS", "check_fill", "check_levels", "chunks", "flatten", "grid_reason",
           "level_rows", "level_table", "level_words", "num_blocks", "pack", "pairs",
           "split_levels"]

T = TypeVar("T")

#: Levels that one launch takes; more levels take more launches.
MAX_LEVELS = 8

FIELD_BITS = 15
FIELD_MAX = (1 << FIELD_BITS) - 1
GUARD = 1 << 62

#: Row numbers inside a kernel are 32-bit; the last block may reach past the last row.
MAX_ROWS = 2**31 - 4096



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


def check_fill(sizes: Tensor, rows: int) -> None:
    """Refuse levels that do not fill ``rows`` rows, where reading them makes nobody wait.

    Args:
        sizes: [L, 2] integers; on a GPU, and while a call is traced, they are not read.
        rows: of all levels together.

    Raises:
        ValueError: the levels have more or fewer rows.
    """
    if sizes.device.type == "cpu" and not tracing() and int(sizes.prod(1).sum()) != rows:
        raise ValueError(f"levels of {sizes.tolist()} do not fill the {rows} keys")


def pack(fields: Sequence[int]) -> int:
    """One kernel parameter from up to four numbers in ``[0, 32767]``."""
    word = GUARD
    for i, value in enumerate(fields):
        word |= value << (FIELD_BITS * i)
    return word


def level_words(sizes: Sequence[tuple[int, int]], counts: Sequence[int]) -> list[int]:
    """The kernel parameters of up to ``MAX_LEVELS`` levels, empty levels after the last."""
    words = [pack((h, w, a)) for (h, w), a in zip(sizes, counts)]
    return words + [GUARD] * (MAX_LEVELS - len(words))


def level_rows(sizes: Sequence[tuple[int, int]], counts: Sequence[int]) -> list[int]:
    """Rows of every level: height times width times rows per cell."""
    return [h * w * a for (h, w), a in zip(sizes, counts)]


def num_blocks(rows: Sequence[int], block: int) -> int:
    """Programs that own ``block`` rows each, no program of two levels."""
    return sum(-(-n // block) for n in rows)


def chunks(n: int, size: int) -> Iterator[slice]:
    """Consecutive slices of at most ``size`` that cover ``range(n)``."""
    return (slice(i, min(i + size, n)) for i in range(0, n, size))


def split_levels(flat: Tensor, rows: Sequence[int], dim: int = 0) -> list[Tensor]:
    """The levels that follow one another along ``dim`` of ``flat``.

    Args:
        flat: the buffer of all levels.
        rows: rows of every level.
        dim: the dimension that holds them.

    Returns:
        One tensor per level. They lie in the memory of ``flat``, and are no views of it: each has
        a version counter of its own, so that a write into one does not spoil the backward pass of
        another.
    """
    return list(torch.unsafe_split_with_sizes(flat, list(rows), dim))


def check_levels(sizes: Sequence[tuple[int, int]], **tables: Sequence[object]) -> None:
    """Refuse level tables of different lengths and negative sizes.

    Raises:
        ValueError: a table has not one entry per size, or a size is negative.
    """
    for name, table in tables.items():
        if len(table) != len(sizes):
            raise ValueError(f"{name} has {len(table)} levels, but there are {len(sizes)} sizes")
    for h, w in sizes:
        if h < 0 or w < 0:
            raise ValueError(f"a feature map's height and width must not be negative, got {h}, {w}")


def grid_reason(sizes: Sequence[tuple[int, int]], counts: Sequence[int]) -> Reason | None:
    """Why a grid of these levels does not fit the kernels' parameters, or ``None``."""
    largest = max((n for size, a in zip(sizes, counts) for n in (*size, a)), default=0)
    if largest > FIELD_MAX:
        return f"a level's height, width or rows per cell is {largest}, over {FIELD_MAX}"
    total = sum(level_rows(sizes, counts))
    if total > MAX_ROWS:
        return f"the levels have {total} rows, over {MAX_ROWS}"
    return None


def pairs(flat: Sequence[T]) -> list[tuple[T, T]]:
    """``[a, b, c, d]`` to ``[(a, b), (c, d)]``: custom operators take flat lists only."""
    return list(zip(flat[::2], flat[1::2]))


def flatten(table: Sequence[Sequence[T]]) -> list[T]:
    """``[(a, b), (c, d)]`` to ``[a, b, c, d]``."""
    return [value for row in table for value in row]
