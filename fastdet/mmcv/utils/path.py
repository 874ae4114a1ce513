"""Files and folders, as in ``mmcv.utils.path``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

__all__ = ["check_file_exist", "find_vcs_root", "fopen", "is_filepath", "mkdir_or_exist",
           "scandir", "symlink"]


def is_filepath(x: Any) -> bool:
    """Whether ``x`` is a string or a ``Path``."""
    return isinstance(x, str | Path)


def fopen(filepath: str | Path, *args: Any, **kwargs: Any) -> IO[Any]:
    """``open`` for a string or a ``Path``.

    Raises:
        ValueError: ``filepath`` is neither.
    """
    if not is_filepath(filepath):
        raise ValueError("`filepath` should be a string or a Path, "
                         f"got {type(filepath).__name__}")
    return open(filepath, *args, **kwargs)


def check_file_exist(filename: str | Path,
                     msg_tmpl: str = 'file "{}" does not exist') -> None:
    """Raise FileNotFoundError unless there is such a file."""
    if not os.path.isfile(filename):
        raise FileNotFoundError(msg_tmpl.format(filename))


def mkdir_or_exist(dir_name: str | Path, mode: int = 0o777) -> None:
    """Make a folder and its parents; one that exists is fine, and so is ``''``."""
    if dir_name != "":
        os.makedirs(os.path.expanduser(dir_name), mode=mode, exist_ok=True)


def symlink(src: str | Path, dst: str | Path, overwrite: bool = True, **kwargs: Any) -> None:
    """Link ``dst`` to ``src``; with ``overwrite`` a file or link at ``dst`` goes first."""
    if os.path.lexists(dst) and overwrite:
        os.remove(dst)
    os.symlink(src, dst, **kwargs)


def scandir(dir_path: str | Path, suffix: str | tuple[str, ...] | None = None,
            recursive: bool = False, case_sensitive: bool = True) -> Iterator[str]:
    """The files of a folder, by path relative to it; hidden files are left out.

    Args:
        dir_path: the folder.
        suffix: only files that end so (any of a tuple).
        recursive: descend into folders.
        case_sensitive: whether ``suffix`` minds the case.
    """
    if not is_filepath(dir_path):
        raise TypeError(f"dir_path must be a str or a Path, got {type(dir_path).__name__}")
    if suffix is not None and not isinstance(suffix, str | tuple):
        raise TypeError(f"suffix must be a str or a tuple of them, got {type(suffix).__name__}")
    if suffix is not None and not case_sensitive:
        suffix = suffix.lower() if isinstance(suffix, str) else tuple(s.lower() for s in suffix)
    root = str(dir_path)

    def walk(folder: str) -> Iterator[str]:
        for entry in os.scandir(folder):
            if not entry.name.startswith(".") and entry.is_file():
                path = os.path.relpath(entry.path, root)
                if suffix is None or (path if case_sensitive else path.lower()).endswith(suffix):
                    yield path
            elif recursive and os.path.isdir(entry.path):
                yield from walk(entry.path)

    return walk(root)


def find_vcs_root(path: str | Path, markers: tuple[str, ...] = (".git",)) -> str | None:
    """The nearest folder at or above ``path`` that holds one of ``markers``."""
    folder = Path(path)
    if folder.is_file():
        folder = folder.parent
    folder = folder.expanduser().absolute()
    for candidate in (folder, *folder.parents[:-1]):
        if any((candidate / marker).exists() for marker in markers):
            return str(candidate)
    return None
