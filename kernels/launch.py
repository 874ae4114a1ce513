"""The one place from which kernels are launched.

Every operator launches through :func:`launch`, so that the device guard exists once and the
ledger (``benchmarks/ledger.py``) can record what a call would launch, with the shipped configs,
on a machine without a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch

from .bound import Forms, Repeated, bound_launch
from .dispatch import interpreting
from .interpreter import mend

__all__ = ["Launch", "Prepared", "Program", "capability", "dot_precision", "launch", "num_sms",
           "program", "record_launches", "recording"]


@dataclass(frozen=True)
class Launch:
    """What one call of :func:`launch` was given."""

    kernel: Any
    grid: tuple[int, ...]
    args: tuple[Any, ...]
    options: dict[str, Any]


@dataclass
class _Recorder:
    launches: list[Launch]
    capability: tuple[int, int]
    multiprocessors: int


_recorder: _Recorder | None = None


@contextmanager
def record_launches(capability: tuple[int, int],
                    multiprocessors: int = 132) -> Iterator[list[Launch]]:
    """Collect launches instead of performing them.

    Args:
        capability: the compute capability that config functions are to see; ``(0, 0)`` for HIP.
        multiprocessors: those of the GPU that grids are to fill.
    """
    global _recorder
    before, _recorder = _recorder, _Recorder([], capability, multiprocessors)
    try:
        yield _recorder.launches
    finally:
        _recorder = before


def recording() -> bool:
    """True inside :func:`record_launches`: nothing that a call returns has a value."""
    return _recorder is not None


_INTERPRETING = interpreting()
#: ``torch.cuda.current_device`` where CUDA is in use already: there is a tensor on a GPU.
_current_device: Callable[[], int] = getattr(torch._C, "_cuda_getDevice", lambda: -1)


class _GPU(NamedTuple):
    capability: tuple[int, int]
    multiprocessors: int


@cache
def _gpu(index: int) -> _GPU:
    """What launch configs ask of a GPU; asking torch takes as long as a launch."""
    properties = torch.cuda.get_device_properties(index)
    return _GPU((properties.major, properties.minor), properties.multi_processor_count)


def capability(device: torch.device) -> tuple[int, int]:
    """Compute capability that launch configs are chosen for; ``(0, 0)`` off NVIDIA GPUs."""
    if _recorder is not None:
        return _recorder.capability
    if device.type == "cuda" and torch.version.hip is None:
        return _gpu(device.index).capability
    return (0, 0)


def num_sms(device: torch.device) -> int:
    """Multiprocessors that a persistent grid should fill (one under the interpreter)."""
    if _recorder is not None:
        return _recorder.multiprocessors
    return _gpu(device.index).multiprocessors if device.type == "cuda" else 1


def dot_precision(dtype: torch.dtype) -> str:
    """``input_precision`` of a ``tl.dot``: IEEE for fp32 unless torch allows TF32 in a product.

    However it was allowed: by ``torch.set_float32_matmul_precision``, by ``fp32_precision`` of
    ``torch.backends`` or ``torch.backends.cuda.matmul``, or by the older ``allow_tf32``.
    """
    if dtype != torch.float32:
        return "ieee"
    matmul = torch.backends.cuda.matmul
    tf32 = matmul.fp32_precision == "tf32" if _names_precisions() else matmul.allow_tf32
    return "tf32" if tf32 else "ieee"


@cache
def _names_precisions() -> bool:
    """Whether torch has names for them, which newer torch keeps true to every setting.

    Older torch has ``allow_tf32`` alone, which newer refuses to read once a name was set.
    """
    return hasattr(torch.backends.cuda.matmul, "fp32_precision")


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, device: torch.device,
           **options: Any) -> None:
    """Launch ``kernel`` on ``device``.

    Args:
        kernel: a ``@triton.jit`` function.
        grid: programs along each axis; nothing is launched when one of them is zero.
        args: the kernel's run-time arguments in order.
        device: the device of the tensors among ``args``.
        options: ``constexpr`` arguments and launch options (``num_warps`` …) by name. Products and
            sums are fused unless ``enable_fp_fusion=False``: the default of Triton changes.
    """
    options.setdefault("enable_fp_fusion", True)
    _start(kernel, grid, args, device, options)


class Program:
    """A kernel with its constants and options: what a plan of many calls keeps.

    ``Program(kernel, BLOCK=64, num_warps=4)(grid, *args, device=device)`` is :func:`launch` with
    less to do each time, and ``program.at(grid, *numbers)(*tensors, device=device)`` with less yet
    where the grid and the last arguments stay the same.
    """

    __slots__ = ("_forms", "kernel", "options")

    def __init__(self, kernel: Any, **options: Any) -> None:
        self.kernel, self.options = kernel, {"enable_fp_fusion": True, **options}
        self._forms: Forms = {}

    def __call__(self, grid: tuple[int, ...], *args: Any, device: torch.device) -> None:
        _start(self.kernel, grid, args, device, self.options, self._forms)

    def at(self, grid: tuple[int, ...], *numbers: Any) -> Prepared:
        """This program with its grid and its last arguments, which are no tensors."""
        return Prepared(self.kernel, grid, numbers, self.options, self._forms)


class Prepared(Repeated):
    """A :class:`Program` at a grid, with its numbers: takes its tensors."""

    __slots__ = ()

    def __call__(self, *tensors: Any, device: torch.device,
                 grid: tuple[int, ...] | None = None) -> None:
        """Launch it, at another grid than its own where one is given."""
        grid = self.grid if grid is None else grid
        if _recorder is None and not _INTERPRETING and 0 not in grid and (
                device.type != "cuda" or device.index == _current_device()):
            self.start(grid, tensors)
        else:
            _start(self.kernel, grid, tensors + self.numbers, device, self.options, self._forms)


def _start(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], device: torch.device,
           options: dict[str, Any], forms: Forms | None = None) -> None:
    if 0 in grid:
        return
    if _recorder is not None:
        _recorder.launches.append(Launch(kernel, grid, args, dict(options)))
        return
    if _INTERPRETING:
        mend()
    if device.type == "cuda" and device.index != _current_device():
        with torch.cuda.device(device):
            bound_launch(kernel, grid, args, options, forms)
    else:
        bound_launch(kernel, grid, args, options, forms)


#: :class:`Program` once for each kernel, constants and options: plans of many sizes share it, and
#: what it knows of compiled kernels.
program = cache(Program)
