"""Marks for a compiler that nobody uses, as in ``mmcv.utils.parrots_jit``: they do nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["jit", "skip_no_elena"]


def jit(func: Callable[..., Any] | None = None, check_input: Any = None, full_shape: bool = True,
        derivate: bool = False, coderize: bool = False,
        optimize: bool = False) -> Callable[..., Any]:
    """A decorator, bare or with arguments, that gives the function back."""
    return (lambda f: f) if func is None else func


def skip_no_elena(func: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that gives the function back."""
    return func
