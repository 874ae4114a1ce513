"""The operators of fastdet, each with a torch reference and Triton kernels.

One folder per operator: ``reference.py`` is its definition in plain torch, ``kernel.py`` holds the
``@triton.jit`` functions, ``op.py`` checks, dispatches and launches. Importing this package
neither imports triton nor touches a driver.
"""

if __name__ == "kernels":  # from a checkout's root: a second copy, with a backend of its own
    raise ImportError("kernels is not a package of its own: import fastdet.kernels")

from .dispatch import BACKENDS, BackendError, backend, get_backend, set_backend

__all__ = ["BACKENDS", "BackendError", "backend", "get_backend", "set_backend"]
