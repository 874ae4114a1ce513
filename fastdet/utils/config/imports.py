"""``custom_imports``: modules that register what a config names."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

__all__ = ["import_modules_from_strings"]


def import_modules_from_strings(imports: str | list[str] | None,
                                allow_failed_imports: bool = False) -> Any:
    """Import modules by their names.

    Args:
        imports: a name or a list of names.
        allow_failed_imports: warn of a module that cannot be imported, and give ``None`` for it.

    Returns:
        The module, or the list of modules; ``None`` where nothing is named.

    Raises:
        TypeError: a name is not a string.
        ImportError: a module cannot be imported.
    """
    if not imports:
        return None
    names = [imports] if isinstance(imports, str) else imports
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"custom_imports must be a module's name or a list of them, "
                        f"got {imports!r}")
    found: list[Any] = []
    for name in names:
        try:
            found.append(importlib.import_module(name))
        except ImportError as e:
            if not allow_failed_imports:
                raise ImportError(f"the config's custom_imports name {name}, which cannot be "
                                  f"imported: {e}") from e
            warnings.warn(f"{name} cannot be imported and is left out: {e}", UserWarning,
                          stacklevel=2)
            found.append(None)
    return found[0] if isinstance(imports, str) else found
