"""Colours by name, as in ``mmcv.visualization.color``."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np

__all__ = ["Color", "color_val"]


class Color(Enum):
    """Colours in BGR."""

    red = (0, 0, 255)
    green = (0, 255, 0)
    blue = (255, 0, 0)
    cyan = (255, 255, 0)
    yellow = (0, 255, 255)
    magenta = (255, 0, 255)
    white = (255, 255, 255)
    black = (0, 0, 0)


def color_val(color: Any) -> tuple[int, ...]:
    """A colour as a BGR tuple.

    Args:
        color: a :class:`Color`, its name, a BGR tuple, a grey value or an array of three.

    Raises:
        TypeError: it is something else.
        ValueError: a name is unknown, or a value lies outside ``[0, 255]``.
    """
    if isinstance(color, str):
        if color not in Color.__members__:
            raise ValueError(f"unknown colour {color!r}; known are "
                             f"{', '.join(Color.__members__)}")
        return Color[color].value
    if isinstance(color, Color):
        return color.value
    if isinstance(color, int):
        color = (color,) * 3
    elif isinstance(color, np.ndarray):
        if color.ndim != 1 or color.size != 3:
            raise ValueError(f"a colour has 3 values, got the shape {color.shape}")
        return tuple(color.astype(np.uint8))
    elif not isinstance(color, tuple):
        raise TypeError(f"Invalid type for color: {type(color)}")
    if len(color) != 3 or not all(0 <= channel <= 255 for channel in color):
        raise ValueError(f"a colour has 3 values in [0, 255], got {color}")
    return color
