"""Tables and messages of evaluations."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

__all__ = ["say", "text_table"]


def text_table(header: Sequence[Any], rows: Sequence[Sequence[Any]], footer: bool = False) -> str:
    """A table with a frame, as terminaltables draws it; ``footer`` sets the last row apart."""
    lines = [[str(cell) for cell in line] for line in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*lines)]
    rule = "+" + "+".join("-" * (w + 2) for w in widths) + "+"
    drawn = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths)) + " |" for line in lines]
    if footer:
        drawn.insert(-1, rule)
    return "\n".join([rule, drawn[0], rule, *drawn[1:], rule])


def say(message: str, logger: Any = None, level: int = logging.INFO) -> None:
    """Print a message, or log it: to a logger or its name; ``'silent'`` says nothing."""
    if logger is None:
        print(message)
    elif logger != "silent":
        named = logging.getLogger(logger) if isinstance(logger, str) else logger
        named.log(level, message)
