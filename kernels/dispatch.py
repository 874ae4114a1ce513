"""Which backend runs an operator: the Triton kernel or the plain torch reference.

Three choices, from ``FASTDET_BACKEND`` at import, :func:`set_backend`, or ``with backend(...)``:

* ``auto``: Triton where the tensors are on a GPU that Triton supports and the operator has no
  objection to the call, else the reference.
* ``triton``: Triton, or :class:`BackendError` with the reason. With ``TRITON_INTERPRET=1`` this
  is how the kernels run on a CPU.
* ``torch``: always the reference.

``set_backend`` is for the process, ``with backend(...)`` for the calling thread and for the
backward passes it starts. Backward kernels need no choice: the gradient of a kernel is a kernel,
that of the reference is torch's own. Only what a backward computes again asks once more.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

__all__ = ["BACKENDS", "BackendError", "Reason", "backend", "get_backend", "set_backend",
           "device_reason", "observe", "tracing", "use_triton"]

BACKENDS = ("auto", "triton", "torch")

#: One sentence that says why Triton cannot take a call.
Reason = str

#: Kernels use bf16 and asynchronous copies; older NVIDIA GPUs have neither.
MIN_CUDA_CAPABILITY = (8, 0)

#: The first Triton that makes matrix products for compute capability 12 (RTX 50); 3.3.0, which
#: torch 2.7.0 comes with, ends with "PassManager::run failed" there.
FIRST_TRITON_FOR_12 = (3, 3, 1)


class BackendError(RuntimeError):
    """The Triton backend was asked for by name and cannot take the call."""


def _checked(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source}: unknown backend {name!r}, "
                         f"expected one of {', '.join(BACKENDS)}")
    return name


_process = _checked(os.environ.get("FASTDET_BACKEND", "auto"), "FASTDET_BACKEND")


class _Scope(threading.local):
    """The choice of the innermost ``with backend(...)`` of this thread.

    An attribute, and not a context variable, because torch.compile can guard on it.
    """

    def __init__(self) -> None:
        self.name: str | None = None


_scope = _Scope()
#: The same once more, as autograd hands it to the threads that run a GPU's backward.
_inherited: ContextVar[str | None] = ContextVar("fastdet_backend", default=None)


def _of_backward() -> str | None:
    """The choice of the thread that called ``backward()``, in a thread of autograd's."""
    if not torch._C._is_key_in_tls("context"):  # where newer torch keeps it
        return None
    context = torch._C._get_obj_in_tls("context")
    return None if context is None else context.get(_inherited)


def get_backend() -> str:
    """The backend in force: ``'auto'``, ``'triton'`` or ``'torch'``."""
    name = _scope.name
    if name is None and not torch.compiler.is_compiling():
        name = _of_backward()
    return _process if name is None else name


def set_backend(name: str) -> None:
    """Choose the backend for the whole process, except inside ``with backend(...)``.

    Raises:
        ValueError: ``name`` is not one of ``auto``, ``triton``, ``torch``.
    """
    global _process
    _process = _checked(name, "set_backend")


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Choose the backend inside a ``with`` block, in this thread alone.

    Raises:
        ValueError: ``name`` is not one of ``auto``, ``triton``, ``torch``.
    """
    before, _scope.name = _scope.name, _checked(name, "backend")
    token = None if torch.compiler.is_compiling() else _inherited.set(name)
    try:
        yield
    finally:
        _scope.name = before
        if token is not None:
            _inherited.reset(token)


# Looked up, not imported: import of fastdet must not import triton.
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def _triton_version() -> tuple[int, ...]:
    """Of the package; torch's nightly builds and those for AMD bring a new one by another name."""
    try:
        version = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return FIRST_TRITON_FOR_12
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


_TRITON_VERSION = _triton_version()
_INTERPRETING = os.environ.get("TRITON_INTERPRET", "0") == "1"


def interpreting() -> bool:
    """True when Triton kernels run under its CPU interpreter."""
    return _INTERPRETING


def device_reason(device: torch.device) -> Reason | None:
    """Why Triton cannot run on ``device`` at all, or ``None`` if it can."""
    if torch.compiler.is_compiling():
        return _device_reason(device)
    reason = _reasons.get(device, _UNKNOWN)
    if reason is _UNKNOWN:
        reason = _device_reason(device)
        if device.type == "cpu" or device.index is not None:
            _reasons[device] = reason
    return reason


_UNKNOWN = "not asked yet"
#: By device: none becomes another while a process runs, and asking takes as long as a launch.
_reasons: dict[torch.device, Reason | None] = {}


def _device_reason(device: torch.device) -> Reason | None:
    if not _HAS_TRITON:
        return "triton is not installed"
    if device.type == "cpu":
        return None if _INTERPRETING else (
            "the tensors are on the CPU, where Triton runs only under TRITON_INTERPRET=1")
    if device.type != "cuda":
        return f"there are no Triton kernels for {device.type} devices"
    return _gpu_reason(device)


def _gpu_reason(device: torch.device) -> Reason | None:
    if torch.version.hip is None and torch.cuda.is_available():
        capability = torch.cuda.get_device_capability(device)
        if capability < MIN_CUDA_CAPABILITY:
            have, need = (".".join(map(str, c)) for c in (capability, MIN_CUDA_CAPABILITY))
            return f"the GPU has compute capability {have}, the kernels need {need}"
        if capability[0] == 12 and _TRITON_VERSION < FIRST_TRITON_FOR_12:
            have, need = (".".join(map(str, v)) for v in (_TRITON_VERSION, FIRST_TRITON_FOR_12))
            return (f"triton {have} makes no matrix products for compute capability 12, "
                    f"triton {need} does")
    return None


def use_triton(operator: str, device: torch.device, reason: Reason | None) -> bool:
    """Decide one call of ``operator`` on ``device``.

    Args:
        operator: the operator's name, for the message.
        device: where the tensors are.
        reason: what the operator's own ``can_run_<operator>`` says of the call.

    Raises:
        BackendError: the backend is ``triton`` and the call cannot run there.
    """
    chosen = get_backend()
    if chosen == "torch" or (chosen == "auto" and device.type == "cpu"):
        triton = False
    else:
        reason = device_reason(device) or reason
        if reason is not None and chosen == "triton":
            raise BackendError(f"{operator}: the triton backend was asked for, but {reason}")
        triton = reason is None
    if _observer is not None:
        _observer(operator, device, triton, reason)
    return triton


#: Is told of every decision: operator, device, whether Triton, and the objection, if any.
Observer = Callable[[str, torch.device, bool, Reason | None], None]

_observer: Observer | None = None


@contextmanager
def observe(observer: Observer) -> Iterator[None]:
    """Have ``observer`` told of every operator call inside a ``with`` block."""
    global _observer
    before, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = before


# By name: they are asked before every operator.
_compiling = torch.compiler.is_compiling
_modes = torch._C._len_torch_dispatch_stack
_jit = torch._C._get_tracing_state
_transforms = torch._C._are_functorch_transforms_active


def tracing() -> bool:
    """True while calls are recorded or transformed rather than run: by a compiler, by a dispatch
    mode such as FakeTensor's, by ``torch.jit.trace`` or by ``torch.func``. Then operators must go
    through the dispatcher and no result may be kept; otherwise calling a body directly saves most
    of what a launch-bound operator costs."""
    return _compiling() or _modes() > 0 or _jit() is not None or _transforms()
