"""Rounding channel numbers, as MobileNet does."""

from __future__ import annotations

__all__ = ["make_divisible"]


def make_divisible(value: float, divisor: int, min_value: int | None = None,
                   min_ratio: float = 0.9) -> int:
    """Round a channel number to the nearest multiple of ``divisor``, halves up.

    Args:
        value: the channel number.
        divisor: what the result is a multiple of.
        min_value: the smallest result; ``divisor`` by default.
        min_ratio: a result below ``min_ratio * value`` is raised by one ``divisor``.

    Returns:
        The rounded channel number.
    """
    if min_value is None:
        min_value = divisor
    rounded = max(min_value, int(value + divisor / 2) // divisor * divisor)
    if rounded < min_ratio * value:
        rounded += divisor
    return rounded
