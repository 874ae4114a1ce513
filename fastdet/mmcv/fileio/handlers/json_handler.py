"""JSON, as in ``mmcv.fileio.handlers.json_handler``."""

from __future__ import annotations

import json
from typing import IO, Any

import numpy as np

from .base import BaseFileHandler

__all__ = ["JsonHandler", "set_default"]


def set_default(obj: Any) -> Any:
    """A set, a range, an array or a NumPy scalar as plain Python.

    Raises:
        TypeError: ``obj`` is none of these.
    """
    if isinstance(obj, set | range):
        return list(obj)
    if isinstance(obj, np.ndarray):
        return obj.tolist()
    if isinstance(obj, np.generic):
        return obj.item()
    raise TypeError(f"{type(obj)} is unsupported for json dump")


class JsonHandler(BaseFileHandler):
    """Reads and writes JSON; sets, ranges and NumPy's arrays and scalars are converted."""

    def load_from_fileobj(self, file: IO[str], **_kwargs: Any) -> Any:
        return json.load(file)

    def dump_to_fileobj(self, obj: Any, file: IO[str], **kwargs: Any) -> None:
        json.dump(obj, file, **{"default": set_default, **kwargs})

    def dump_to_str(self, obj: Any, **kwargs: Any) -> str:
        return json.dumps(obj, **{"default": set_default, **kwargs})
