"""Names that MMDetection 2.26 and code of its time use and that NumPy has removed since."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

__all__ = ["mend", "mended", "undo"]


def _in1d(ar1: Any, ar2: Any, assume_unique: bool = False, invert: bool = False) -> np.ndarray:
    return np.isin(ar1, ar2, assume_unique=assume_unique, invert=invert).ravel()


_NAMES: dict[str, Any] = {
    "bool": bool, "int": int, "float": float, "complex": complex, "object": object, "str": str,
    "long": int, "unicode": str,
    "bool8": np.bool_, "float_": np.float64, "complex_": np.complex128, "unicode_": np.str_,
    "string_": np.bytes_, "int0": np.intp, "uint0": np.uintp,
    "Inf": np.inf, "Infinity": np.inf, "infty": np.inf, "PINF": np.inf, "NINF": -np.inf,
    "NaN": np.nan,
    "product": np.prod, "cumproduct": np.cumprod, "sometrue": np.any, "alltrue": np.all,
    "row_stack": np.vstack, "in1d": _in1d,
}


def mend() -> list[str]:
    """Give NumPy back those of the names that it lacks, and say which these are."""
    lacking = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns when it is asked for some of them
        for name, value in _NAMES.items():
            if not hasattr(np, name):
                setattr(np, name, value)
                lacking.append(name)
    return lacking


def undo(names: list[str]) -> None:
    """Take away what :func:`mend` gave."""
    for name in names:
        if np.__dict__.get(name) is _NAMES[name]:
            delattr(np, name)


@contextmanager
def mended() -> Iterator[None]:
    """NumPy with the names back, while code of that time runs: the benchmarks' own scripts."""
    names = mend()
    try:
        yield
    finally:
        undo(names)
