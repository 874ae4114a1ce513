"""What reading one config may cost, its bases included: every part of the reader draws on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .errors import ConfigError

__all__ = ["MAX_BITS", "MAX_ITEMS", "Budget", "is_plain_key"]

# The largest config of the model zoo reads 6 files of 15 KiB in all and takes some thousand steps.
MAX_FILES = 64
MAX_BYTES = 512 << 10
MAX_MARKS = 100_000  # words and punctuation: what a parser makes an object of
MAX_STEPS = 300_000
# Of one value.
MAX_ITEMS = 100_000
MAX_DEPTH = 100
MAX_BITS = 1024
MAX_ODD_KEYS = 64

_LIMITS = {
    "files": (MAX_FILES, f"are more than {MAX_FILES} files"),
    "bytes": (MAX_BYTES, f"exceed {MAX_BYTES >> 10} KiB"),
    "marks": (MAX_MARKS, f"have more than {MAX_MARKS} words and signs"),
    "steps": (MAX_STEPS, f"take more than {MAX_STEPS} steps to evaluate"),
}

_MARK = re.compile(r"\w+|[^\w\s]")
_LONG_NUMBER = re.compile(r"(?<!\w)[+-]?[0-9][0-9_]{1000}")


def is_plain_key(key: Any) -> bool:
    """Whether nobody can choose many such keys with one hash: strings and small integers."""
    return isinstance(key, (str, bool)) or key is None or (
        isinstance(key, int) and abs(key) < 1 << 31)


class Budget:
    """Counts files, bytes, marks and steps; whoever asks for more than is left gets an error."""

    def __init__(self) -> None:
        self.left = {what: limit for what, (limit, _) in _LIMITS.items()}

    def take(self, what: str, count: int, file: Path | None, line: int | None = None) -> None:
        """Take ``count`` of ``'files'``, ``'bytes'``, ``'marks'`` or ``'steps'``.

        Raises:
            ConfigError: there is not as much left.
        """
        self.left[what] -= count
        if self.left[what] < 0:
            raise ConfigError(f"the config and its bases {_LIMITS[what][1]}", file, line)

    def take_text(self, text: str, file: Path | None, weight: int = 1) -> None:
        """Take the marks of a text that is to be parsed, and look at its numbers."""
        self.take("marks", weight * sum(1 for _ in _MARK.finditer(text)), file)
        if _LONG_NUMBER.search(text):
            raise ConfigError("the config has a number of more than 1000 digits", file)

    def take_value(self, value: Any, file: Path | None, line: int | None = None) -> int:
        """Take the steps of a walk through ``value``; returns its size with shared parts copied.

        Raises:
            ConfigError: it holds itself, is deep, or has more than ``MAX_ITEMS`` values.
        """
        measured: dict[int, tuple[int, int] | None] = {}

        def measure(v: Any) -> tuple[int, int]:
            """How many values, and how deep."""
            if isinstance(v, str):
                return 1 + len(v) // 64, 0
            if isinstance(v, (set, range)):
                return 1 + len(v), 1
            if not isinstance(v, (dict, list, tuple)):
                return 1, 0
            if id(v) not in measured:
                measured[id(v)] = None
                self.take("steps", 1 + len(v) // 8, file, line)
                inside = [measure(item) for item in (v.values() if isinstance(v, dict) else v)]
                measured[id(v)] = (1 + sum(size for size, _ in inside),
                                   1 + max((depth for _, depth in inside), default=0))
            found = measured[id(v)]
            if found is None:
                raise ConfigError("a value contains itself", file, line)
            if found[0] > MAX_ITEMS:
                raise ConfigError(f"the config has more than {MAX_ITEMS} values", file, line)
            if found[1] > MAX_DEPTH:
                raise ConfigError("the config is nested too deeply", file, line)
            return found

        return measure(value)[0]
