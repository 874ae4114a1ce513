"""Text files of one item a line, as in ``mmcv.fileio.parse``."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

from .file_client import FileClient

__all__ = ["dict_from_file", "list_from_file"]


def list_from_file(filename: str | Path, prefix: str = "", offset: int = 0, max_num: int = 0,
                   encoding: str = "utf-8",
                   file_client_args: dict[str, Any] | None = None) -> list[str]:
    """The lines of a text file, without their ends.

    Args:
        filename: the path or URI.
        prefix: put before every line.
        offset: lines to skip.
        max_num: lines to read at most; 0 for all.
        encoding: of the file.
        file_client_args: arguments of :class:`FileClient`; found from the URI's prefix by default.
    """
    client = FileClient.infer_client(file_client_args, filename)
    lines = list(StringIO(client.get_text(filename, encoding)))
    stop = offset + max_num if max_num > 0 else None
    return [prefix + line.rstrip("\n\r") for line in lines[offset:stop]]


def dict_from_file(filename: str | Path, key_type: Callable[[str], Any] = str,
                   encoding: str = "utf-8",
                   file_client_args: dict[str, Any] | None = None) -> dict[Any, Any]:
    """A text file whose lines hold a key and one value or several, parted by white space.

    Returns:
        By ``key_type(key)``, the value, or a list if there are several.

    Raises:
        ValueError: a line holds a key alone.
    """
    out = {}
    for line in list_from_file(filename, encoding=encoding, file_client_args=file_client_args):
        key, *values = line.split() or [""]
        if not values:
            raise ValueError(f"a line of {filename} must hold a key and a value, got {line!r}")
        out[key_type(key)] = values[0] if len(values) == 1 else values
    return out
