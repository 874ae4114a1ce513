"""Names of mmcv that import, and say why they do not work when they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["absent_class", "absent_function"]


def absent_function(name: str, why: str) -> Callable[..., Any]:
    """A function that raises NotImplementedError: ``name`` is not there because of ``why``."""

    def absent(*_args: Any, **_kwargs: Any) -> Any:
        raise NotImplementedError(f"{name} is not available: {why}")

    absent.__name__ = absent.__qualname__ = name.rpartition(".")[2]
    absent.__doc__ = f"Not available: {why}."
    return absent


def absent_class(name: str, why: str, *bases: type) -> type:
    """A class whose constructor raises NotImplementedError; see :func:`absent_function`."""
    init = absent_function(name, why)
    return type(name.rpartition(".")[2], bases or (object,), {
        "__init__": init, "__doc__": init.__doc__, "__module__": name.rpartition(".")[0]})
