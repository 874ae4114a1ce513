"""The components of MMDetection on today's PyTorch, with Triton kernels in the hot paths."""

import sys
from os.path import basename

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

__all__ = ["BackendError", "__version__", "backend", "get_backend", "set_backend"]
