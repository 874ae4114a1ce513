"""The GPUs that kernels are compiled for without one: what launch configs ask, what a program may
use, and what a multiprocessor has.

Figures: the CUDA C++ Programming Guide's table of compute capabilities, AMD's CDNA 3 ISA guide, and
the data sheets of the named cards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["TARGETS", "Bound", "Driver", "Target", "bound"]


@dataclass(frozen=True)
class Target:
    """A GPU to compile for.

    Attributes:
        backend: Triton's backend.
        arch: what that backend calls the GPU.
        warp: threads in a warp.
        capability: what launch configs are chosen by.
        multiprocessors: of one card, which grids are chosen by.
        shared: bytes of shared memory that one program may use.
        room: bytes of shared memory of a multiprocessor.
        reserved: bytes of it that every program takes beside its own.
        warps: most resident warps of a multiprocessor.
        programs: most resident programs.
        registers: 32-bit registers of a multiprocessor; on AMD, of all lanes of its four SIMDs.
        granule: registers come in multiples of it, per warp.
        whole: compiled to machine code. Else only until shared memory is laid out, which is what
            such cards have less of than the ones whose machine code is much the same.
    """

    backend: str
    arch: int | str
    warp: int
    capability: tuple[int, int]
    multiprocessors: int
    shared: int
    room: int
    reserved: int = 1024
    warps: int = 64
    programs: int = 32
    registers: int = 2**16
    granule: int = 256
    whole: bool = True


def _nvidia(major: int, minor: int, multiprocessors: int, shared: int, **more: Any) -> Target:
    """Shared memory in KB a program."""
    return Target("cuda", 10 * major + minor, 32, (major, minor), multiprocessors, shared * 1024,
                  (shared + 1) * 1024, **more)


TARGETS = {
    "sm_80": _nvidia(8, 0, 108, 163),  # A100
    # RTX 3090 Ti. Triton makes the same of a kernel for 8.9 (RTX 4090), which has as much memory.
    "sm_86": _nvidia(8, 6, 84, 99, warps=48, programs=16, whole=False),
    "sm_90": _nvidia(9, 0, 132, 227),  # H100
    "sm_100": _nvidia(10, 0, 148, 227),  # B200
    "sm_120": _nvidia(12, 0, 170, 99, warps=48, programs=24, whole=False),  # RTX 5090
    "gfx942": Target("hip", "gfx942", 64, (0, 0), 304, 64 * 1024, 64 * 1024, reserved=0, warps=32,
                     registers=4 * 512 * 64, granule=8 * 64),  # MI300X
}

@dataclass(frozen=True)
class Bound:
    """What fits a card.

    Attributes:
        programs: that a multiprocessor has room for.
        occupancy: the share of its warps.
        limiter: what runs out first.
        waves: of the launch's programs, where its grid is known.
    """

    programs: int
    occupancy: float
    limiter: str
    waves: float

    @property
    def filled(self) -> float:
        """The share of the places that have a program, over all waves; 1 where all have."""
        return self.waves / math.ceil(self.waves) if self.waves else 1.0


def bound(facts: Mapping[str, Any], target: str) -> Bound:
    """The occupancy of one compiled kernel on one target."""
    card, warps = TARGETS[target], facts["num_warps"]
    # Where no machine code was made, nobody knows how many; one a thread at least.
    of_warp = facts.get("registers", 1) * card.warp
    of_warp = -(-of_warp // card.granule) * card.granule
    fits = {
        "warps": card.warps // warps,
        "programs": card.programs,
        # A warp's registers are on one of the four schedulers, each with a quarter of them.
        "registers": 4 * (card.registers // 4 // max(of_warp, 1)) // warps,
        "shared memory": card.room // max(facts["shared"] + card.reserved, 1),
    }
    limiter = min(fits, key=lambda name: fits[name])
    places = card.multiprocessors * fits[limiter]
    return Bound(fits[limiter], fits[limiter] * warps / card.warps, limiter,
                 facts.get("grid", 0) / places if places else 0.0)


#: Numbers of devices, by target and last stage: Triton keeps what it compiled by device.
_devices: dict[tuple[Target, str], int] = {}


class Driver:
    """Names a GPU that is not there.

    Args:
        target: the GPU.
        until: the last stage of compilation, where it is not the whole of it.
    """

    def __init__(self, target: Target, until: str = "") -> None:
        self._target, self._until = target, until

    def get_current_device(self) -> int:
        return _devices.setdefault((self._target, self._until), len(_devices))

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget(self._target.backend, self._target.arch, self._target.warp)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")
