"""The one error of reading a config."""

from __future__ import annotations

from pathlib import Path

__all__ = ["ConfigError", "ConfigNotFoundError"]


class ConfigError(ValueError):
    """A config file that cannot be read.

    Attributes:
        file: the file, or ``None`` where there is none.
        line: the line in it, counted from 1, or ``None``.
        construct: what stands there and may not stand in a config, or ``None``.
    """

    def __init__(self, message: str, file: str | Path | None = None, line: int | None = None,
                 construct: str | None = None) -> None:
        where = "" if file is None else f"{file}: " if line is None else f"{file}:{line}: "
        if len(message) > 600:  # it may quote a whole config
            message = f"{message[:300]} ... {message[-290:]}"
        super().__init__(where + message)
        self.file = file
        self.line = line
        self.construct = construct


class ConfigNotFoundError(ConfigError, FileNotFoundError):
    """There is no such file; a ``FileNotFoundError`` too, as in mmcv."""

    def __str__(self) -> str:  # OSError's own shows an errno
        return str(self.args[0])
