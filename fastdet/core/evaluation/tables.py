"""Tables of results for the console or a log."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

__all__ = ["Logger", "table", "tell"]

#: A logger, a logger's name, ``'silent'``, or ``None`` to print.
Logger = logging.Logger | str | None


def table(rows: Sequence[Sequence[Any]]) -> str:
    """Rows in columns, the first one above a line."""
    text = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*text)]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |" for row in text]
    line = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    return "\n".join([line, lines[0], line, *lines[1:], line])


def tell(text: str, logger: Logger) -> None:
    """Print or log a text."""
    if logger is None:
        print(text)
    elif logger != "silent":
        found = logging.getLogger(logger) if isinstance(logger, str) else logger
        found.info(text)
