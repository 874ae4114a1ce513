"""Deprecated names of arguments."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["renamed"]


def renamed(**names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Let a method take keyword arguments under their deprecated names, with a warning.

    Args:
        **names: the new name of each old one.

    Raises:
        ValueError: (when called) both names of an argument are given.
    """

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for old, new in names.items():
                if old in kwargs:
                    if new in kwargs:
                        raise ValueError(f"got both {new!r} and its deprecated name {old!r}")
                    warnings.warn(f"{old!r} of {method.__qualname__} is deprecated, "
                                  f"use {new!r}", DeprecationWarning, stacklevel=2)
                    kwargs[new] = kwargs.pop(old)
            return method(*args, **kwargs)

        return wrapper

    return decorate
