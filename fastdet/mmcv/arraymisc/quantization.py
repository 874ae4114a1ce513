"""Values to levels and back, as in ``mmcv.arraymisc.quantization``."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["dequantize", "quantize"]


def _check(min_val: float, max_val: float, levels: int) -> None:
    if not (isinstance(levels, int) and levels > 1):
        raise ValueError(f"levels must be a positive integer, but got {levels}")
    if min_val >= max_val:
        raise ValueError(f"min_val ({min_val}) must be smaller than max_val ({max_val})")


def quantize(arr: np.ndarray, min_val: float, max_val: float, levels: int,
             dtype: Any = np.int64) -> np.ndarray:
    """The level, ``0`` to ``levels - 1``, that each value of ``[min_val, max_val]`` falls into."""
    _check(min_val, max_val, levels)
    scaled = levels * (np.clip(arr, min_val, max_val) - min_val) / (max_val - min_val)
    return np.minimum(np.floor(scaled).astype(dtype), levels - 1)


def dequantize(arr: np.ndarray, min_val: float, max_val: float, levels: int,
               dtype: Any = np.float64) -> np.ndarray:
    """The middle of each level's interval."""
    _check(min_val, max_val, levels)
    return (arr + 0.5).astype(dtype) * (max_val - min_val) / levels + min_val
