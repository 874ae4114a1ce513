"""The components of MMDetection on today's PyTorch, with Triton kernels in the hot paths."""

import importlib
import sys
from os.path import basename
from typing import Any

try:
    from .kernels import BackendError, backend, get_backend, set_backend
except ValueError as error:  # of the environment; a command says it in one line
    if basename(sys.argv[0]) in ("fastdet", "-m"):
        print(f"fastdet: error: {error}", file=sys.stderr)
        sys.exit(2)
    raise ValueError(str(error)) from None
except KeyboardInterrupt:  # while torch is imported: no traceback for who waits at a command
    if basename(sys.argv[0]) in ("fastdet", "-m"):
        sys.exit(130)
    raise

from .version import __version__

__all__ = ["BackendError", "__version__", "accelerate", "backend", "get_backend", "install",
           "installed", "serve_torchvision", "set_backend", "uninstall"]


def __getattr__(name: str) -> Any:
    # Only who takes mmcv's place needs OpenCV and the rest of what stands behind it.
    if name in ("install", "installed", "uninstall"):
        return getattr(importlib.import_module("fastdet.compat"), name)
    if name == "accelerate":
        return importlib.import_module("fastdet.compat.accelerate").accelerate
    if name == "serve_torchvision":
        return importlib.import_module("fastdet.compat.torchvision_ops").serve_torchvision
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
