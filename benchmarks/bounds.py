"""What a kernel's binary allows, from the ledger's facts alone: occupancy and what limits it.

    python -m benchmarks.bounds [--targets sm_90] [--operators window_attention]

Occupancy is the share of a multiprocessor's warps that can be resident. Its limiter is the resource
that runs out first: registers, shared memory, or the number of programs or warps. Figures of the
cards: the CUDA C++ Programming Guide's table of compute capabilities, and AMD's CDNA 3 ISA guide.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .ledger import TARGETS, load
from .registry import ENTRIES

__all__ = ["CARDS", "Bound", "Card", "bound", "main"]


@dataclass(frozen=True)
class Card:
    """Resources of one multiprocessor.

    Attributes:
        registers: 32-bit registers; on AMD, of all lanes of its four SIMDs.
        granule: registers come in multiples of it, per warp.
        warps: most resident warps.
        programs: most resident programs.
        shared: bytes of shared memory.
        reserved: bytes of it that every program takes beside its own.
    """

    registers: int
    granule: int
    warps: int
    programs: int
    shared: int
    reserved: int


CARDS = {
    "sm_80": Card(2**16, 256, 64, 32, 164 * 1024, 1024),
    "sm_90": Card(2**16, 256, 64, 32, 228 * 1024, 1024),
    "sm_100": Card(2**16, 256, 64, 32, 228 * 1024, 1024),
    "gfx942": Card(4 * 512 * 64, 8 * 64, 32, 32, 64 * 1024, 0),
}


@dataclass(frozen=True)
class Bound:
    """How many programs are resident, the share of the warps, and what runs out first."""

    programs: int
    occupancy: float
    limiter: str


def bound(facts: Mapping[str, Any], target: str) -> Bound:
    """The occupancy of one compiled kernel on one target."""
    card, warps = CARDS[target], facts["num_warps"]
    of_warp = facts["registers"] * TARGETS[target].warp
    of_warp = -(-of_warp // card.granule) * card.granule
    fits = {
        "warps": card.warps // warps,
        "programs": card.programs,
        # A warp's registers are on one of the four schedulers, each with a quarter of them.
        "registers": 4 * (card.registers // 4 // max(of_warp, 1)) // warps,
        "shared memory": card.shared // max(facts["shared"] + card.reserved, 1),
    }
    limiter = min(fits, key=lambda name: fits[name])
    return Bound(fits[limiter], fits[limiter] * warps / card.warps, limiter)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: one line for each recorded kernel."""
    operators = sorted({entry.operator for entry in ENTRIES.values() if entry.ledger})
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bounds",
                                     description="Occupancy of every recorded kernel.")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=["sm_90"])
    parser.add_argument("--operators", nargs="+", choices=operators, default=operators)
    options = parser.parse_args(argv)
    lines = [("target", "kernel", "registers", "shared", "programs", "occupancy", "limited by",
              "matrix instructions")]
    for operator in options.operators:
        for target in options.targets:
            for key, facts in load(operator)["targets"].get(target, {}).items():
                b, matrix = bound(facts, target), sum(facts["tensor_core"].values())
                lines.append((target, key, str(facts["registers"]), str(facts["shared"]),
                              str(b.programs), f"{b.occupancy:.0%}", b.limiter,
                              f"{matrix / facts['instructions']:.1%}"))
    widths = [max(map(len, column)) for column in zip(*lines)]
    print("\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip()
                    for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
