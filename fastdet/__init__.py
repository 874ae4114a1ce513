"""The components of MMDetection on today's PyTorch, with Triton kernels in the hot paths."""

from .kernels import BackendError, backend, get_backend, set_backend
from .version import __version__

__all__ = ["BackendError", "__version__", "backend", "get_backend", "set_backend"]
