"""Pickle, as in ``mmcv.fileio.handlers.pickle_handler``."""

from __future__ import annotations

import pickle
from typing import IO, Any

from .base import BaseFileHandler

__all__ = ["PickleHandler"]


class PickleHandler(BaseFileHandler):
    """Reads and writes pickles: results of a test run, and annotations in many a data set.

    Reading a pickle runs whatever its author put in: read only files that you trust. Checkpoints
    are not read by this.
    """

    str_like = False

    def load_from_fileobj(self, file: IO[bytes], **kwargs: Any) -> Any:
        return pickle.load(file, **kwargs)

    def load_from_path(self, filepath: str, mode: str = "rb", **kwargs: Any) -> Any:
        return super().load_from_path(filepath, mode, **kwargs)

    def dump_to_str(self, obj: Any, **kwargs: Any) -> bytes:
        return pickle.dumps(obj, **{"protocol": 2, **kwargs})

    def dump_to_fileobj(self, obj: Any, file: IO[bytes], **kwargs: Any) -> None:
        pickle.dump(obj, file, **{"protocol": 2, **kwargs})

    def dump_to_path(self, obj: Any, filepath: str, mode: str = "wb", **kwargs: Any) -> None:
        super().dump_to_path(obj, filepath, mode, **kwargs)
