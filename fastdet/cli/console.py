"""Tables, notes and progress on the terminal: with rich where it is installed, else plain."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["note", "plain_table", "progress", "table", "warn"]


def _rich(stderr: bool = False) -> Console | None:
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(stderr=stderr, highlight=False)


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as aligned text."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = [header, ["-" * w for w in widths], *rows]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines)


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    console = _rich()
    if console is None or not console.is_terminal:  # a pipe has no width to wrap to
        print(f"{title}\n{plain_table(header, rows)}\n")
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title, title_style="bold", title_justify="left", box=box.SIMPLE_HEAD,
                  header_style="bold cyan")
    for name in header:
        drawn.add_column(name, overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    console.print(drawn)


def note(text: str) -> None:
    """Print a line."""
    print(text)


def warn(text: str) -> None:
    """Print a line that the user should see beside the results."""
    print(f"fastdet: note: {text}", file=sys.stderr)


@contextmanager
def progress(text: str) -> Iterator[None]:
    """Show that a long step is running, where somebody watches the terminal."""
    console = _rich(stderr=True)
    if console is None or not console.is_terminal:
        yield
        return
    with console.status(f"{text} ..."):
        yield
