"""What a file format must have, as in ``mmcv.fileio.handlers.base``."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import IO, Any

__all__ = ["BaseFileHandler"]


class BaseFileHandler(metaclass=ABCMeta):
    """Reads and writes objects in one format; ``str_like`` says whether that is text."""

    str_like = True

    @abstractmethod
    def load_from_fileobj(self, file: IO[Any], **kwargs: Any) -> Any:
        """Read an object from an open file."""

    @abstractmethod
    def dump_to_fileobj(self, obj: Any, file: IO[Any], **kwargs: Any) -> None:
        """Write an object to an open file."""

    @abstractmethod
    def dump_to_str(self, obj: Any, **kwargs: Any) -> Any:
        """An object as a string, or as bytes if the format is binary."""

    def load_from_path(self, filepath: str, mode: str = "r", **kwargs: Any) -> Any:
        """Read an object from a file."""
        with open(filepath, mode) as f:
            return self.load_from_fileobj(f, **kwargs)

    def dump_to_path(self, obj: Any, filepath: str, mode: str = "w", **kwargs: Any) -> None:
        """Write an object to a file."""
        with open(filepath, mode) as f:
            self.dump_to_fileobj(obj, f, **kwargs)
