"""Triton in front of a GPU that is not there: kernels are bound, not compiled, and launch nothing.

What is left of a call is its work on the host, which is what :mod:`benchmarks.host` measures; and
every argument that would have reached the launcher of the driver is there to be looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from unittest import mock

from .targets import TARGETS, Driver, Target

__all__ = ["Compiled", "Stub", "stubbed"]

#: Each stub is a device of its own, as Triton keeps what it compiled by device.
_devices = count(1000)


class Stub(Driver):
    """The driver of a GPU that is not there."""

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        self.device = next(_devices)
        self.compiled: list[Compiled] = []
        #: What reached the launcher: grid, stream, function, … and the kernel's arguments.
        self.launches: list[tuple[Compiled, tuple[Any, ...]]] = []
        #: Whether arguments are kept; they are memory.
        self.keep = True
        self.launched = 0

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int = 0) -> int:
        return 7 * device


@dataclass(eq=False)
class Compiled:
    """What a kernel compiled to: the source and options it was asked with."""

    stub: Stub
    source: Any
    options: dict[str, Any]
    function: object = field(default_factory=object)
    packed_metadata: object = field(default_factory=object)

    def launch_metadata(self, grid: tuple[int, ...], stream: int, *args: Any) -> object:
        return "metadata"

    def run(self, *args: Any) -> None:
        self.stub.launched += 1
        if self.stub.keep:
            self.stub.launches.append((self, args))


@contextmanager
def stubbed(target: str = "sm_90") -> Iterator[Stub]:
    """Have kernels bound for ``target``, compiled to nothing and launched into a list.

    Args:
        target: a name of :data:`benchmarks.targets.TARGETS`.
    """
    import triton.compiler
    from triton.runtime import driver

    stub = Stub(TARGETS[target])
    compile_, kernels = triton.compiler.compile, []

    def compiled(src: Any, *, options: dict[str, Any], **_: Any) -> Compiled:
        kernels.append(src.fn)
        stub.compiled.append(Compiled(stub, src, dict(options)))
        return stub.compiled[-1]

    driver.set_active(stub)
    try:
        with mock.patch.object(triton.compiler, "compile", compiled):
            yield stub
    finally:
        for kernel in kernels:  # which keeps the compiler of its first launch on a device
            kernel.compile = compile_
            kernel.device_caches.pop(stub.device, None)
        with suppress(RuntimeError):  # without a GPU there is no driver to go back to
            driver.reset_active()
