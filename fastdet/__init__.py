"""The components of MMDetection on today's PyTorch, with Triton kernels in the hot paths."""

import importlib
from typing import Any

from .kernels import BackendError, backend, get_backend, set_backend
from .version import __version__

__all__ = ["BackendError", "__version__", "backend", "get_backend", "install", "installed",
           "set_backend", "uninstall"]


def __getattr__(name: str) -> Any:
    # Only who takes mmcv's place needs OpenCV and the rest of what stands behind it.
    if name in ("install", "installed", "uninstall"):
        return getattr(importlib.import_module("fastdet.compat"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
