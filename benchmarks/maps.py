"""Sizes of maps that several entries are measured at."""

from __future__ import annotations

from typing import Any

__all__ = ["DYHEAD", "DYHEAD_CPU", "DYHEAD_LEVELS", "IMAGES", "halves", "pyramid", "sizes"]

#: Two levels of a DyHead on two images of 800 x 1344.
DYHEAD_LEVELS = {"p3_b2": {"B": 2, "C": 256, "H": 100, "W": 168},
                 "p4_b2": {"B": 2, "C": 256, "H": 50, "W": 84}}

#: The five levels of a DyHead on two images of 800 x 1344, and on an image small enough for a CPU.
DYHEAD = {"b2": {"B": 2, "C": 256, "H": 100, "W": 168, "levels": 5}}
DYHEAD_CPU = {"b1": {"B": 1, "C": 256, "H": 40, "W": 60, "levels": 5}}

#: Two images as a detector gets them.
IMAGES = {"maps": [(2, 3, 800, 1344)]}


def halves(height: int, width: int, levels: int) -> list[tuple[int, int]]:
    """Sizes of the levels of a pyramid, each half of the one before, rounded up."""
    return [(-(-height // 2**i), -(-width // 2**i)) for i in range(levels)]


def sizes(*shapes: tuple[int, int, int]) -> dict[str, dict[str, Any]]:
    """Shapes of batches of images (height, width, batch), under the names that charts of scaling
    read: ``320x480_b1``."""
    return {f"{h}x{w}_b{b}": {"maps": [(b, 3, h, w)]} for h, w, b in shapes}


def pyramid(height: int, width: int) -> dict[str, Any]:
    """The five levels of RetinaNet, nine anchors a cell."""
    strides = [(step, step) for step in (8, 16, 32, 64, 128)]
    return {"sizes": [(-(-height // y), -(-width // x)) for x, y in strides], "strides": strides,
            "counts": [9] * 5}
