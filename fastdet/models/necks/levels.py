"""Checks that the necks share: which levels they use, and whether their sizes fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

__all__ = ["channels_of_used", "check_in_channels", "check_size", "end_of_levels"]


def check_in_channels(in_channels: Any) -> None:
    """Raise a ``TypeError`` unless ``in_channels`` is a list or tuple."""
    if not isinstance(in_channels, (list, tuple)):
        raise TypeError("in_channels must be a list with one entry per input map, "
                        f"got {in_channels!r}")


def end_of_levels(num_ins: int, num_outs: int, start_level: int, end_level: int) -> int:
    """One past the index of the last input map that a pyramid uses.

    Args:
        num_ins: number of input maps.
        num_outs: number of output maps.
        start_level: index of the first input map that is used.
        end_level: index of the last one; -1 is the last there is. Before the last, it allows no
            outputs beyond the used inputs.

    Raises:
        ValueError: the levels do not exist, or do not fit ``num_outs``.
    """
    last = num_ins - 1 if end_level == -1 else end_level
    if not 0 <= start_level <= last < num_ins:
        raise ValueError(f"start_level={start_level} and end_level={end_level} do not name "
                         f"levels of {num_ins} input maps")
    used = last + 1 - start_level
    if num_outs < used or (num_outs > used and last < num_ins - 1):
        wanted = "at least" if last == num_ins - 1 else "exactly"
        raise ValueError(f"num_outs must be {wanted} {used} with start_level={start_level} and "
                         f"end_level={end_level}, got {num_outs}")
    return last + 1


def channels_of_used(in_channels: Sequence[int], start: int, end: int) -> list[int | None]:
    """The channels of each level, ``None`` of those outside ``start`` to ``end``: not read."""
    return [c if start <= i < end else None for i, c in enumerate(in_channels)]


def check_size(x: Tensor, made: str, like: Tensor, level: int) -> None:
    """Raise a ``ValueError`` unless a map has the height and width of the level it goes to.

    Args:
        x: the map.
        made: what it is, for the message, such as ``'level 2 upsampled by 2'``.
        like: the map of the level.
        level: index of the level.
    """
    if x.shape[2:] != like.shape[2:]:
        raise ValueError(f"{made} is {x.shape[2]}x{x.shape[3]}, which does not fit level {level} "
                         f"of {like.shape[2]}x{like.shape[3]}")
