"""The one error that a command shows its user."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["CliError", "first_line", "require"]


class CliError(Exception):
    """Something the user gave or lacks, in one sentence."""


def first_line(error: BaseException) -> str:
    """An error's message on one line; torch's go on for many."""
    # str() of a KeyError is the repr of its message.
    plain = isinstance(error, KeyError) and len(error.args) == 1 and isinstance(error.args[0], str)
    lines = str(error.args[0] if plain else error).strip().splitlines()
    if not lines:
        return type(error).__name__
    if lines[0].startswith("Caught ") and " in DataLoader worker " in lines[0]:
        return lines[-1]  # behind the worker's traceback
    return lines[0]


def require(module: str, package: str) -> ModuleType:
    """Import a module that the extra ``cli`` brings.

    Raises:
        CliError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        raise CliError(f"this command needs {package}; install it with "
                       "pip install 'fastdet[cli]'") from None
