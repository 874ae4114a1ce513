"""Colours of classes."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdet.core.evaluation.class_names import data_set

__all__ = ["get_palette", "palette_val"]

_DATA_SETS = {"coco": "coco", "voc": "voc", "citys": "cityscapes"}
#: mmcv's names of colours, in RGB.
_NAMED = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "cyan": (0, 255, 255),
          "yellow": (255, 255, 0), "magenta": (255, 0, 255), "white": (255, 255, 255),
          "black": (0, 0, 0)}


def palette_val(palette: list[tuple[int, ...]]) -> list[tuple[float, ...]]:
    """Colours of 0 to 255 as matplotlib takes them, of 0 to 1."""
    return [tuple(c / 255 for c in colour) for colour in palette]


def named_colour(name: str) -> tuple[int, int, int]:
    """A colour in RGB by mmcv's name.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in _NAMED:
        raise ValueError(f"unknown colour {name!r}; known are {', '.join(_NAMED)}")
    return _NAMED[name]


def get_palette(palette: Any, num_classes: int) -> list[tuple[int, ...]]:
    """A colour in RGB for each class.

    Args:
        palette: colours, one for all (a tuple of three numbers), ``'coco'``, ``'voc'``,
            ``'citys'``, ``'random'`` (or ``None``; the same every time), or a colour's name.
        num_classes: how many are needed.

    Raises:
        ValueError: there are not enough, or the name is unknown.
    """
    if isinstance(palette, list) or (isinstance(palette, tuple) and palette
                                     and isinstance(palette[0], (list, tuple))):
        colours = list(palette)
    elif isinstance(palette, tuple):
        colours = [palette] * num_classes
    elif palette is None or palette == "random":
        drawn = np.random.RandomState(42).randint(0, 256, size=(num_classes, 3))
        colours = [tuple(c) for c in drawn.tolist()]
    elif palette in _DATA_SETS:
        colours = data_set(_DATA_SETS[palette], "palette")
    elif isinstance(palette, str):
        colours = [named_colour(palette)] * num_classes
    else:
        raise TypeError(f"palette must be colours or a name, got {type(palette).__name__}")
    if len(colours) < num_classes:
        raise ValueError(f"the palette has {len(colours)} colours for {num_classes} classes")
    return colours
