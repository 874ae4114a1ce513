"""What a kernel's binary allows, from the ledger's facts alone: occupancy, what limits it, waves.

    python -m benchmarks.bounds [--targets sm_90] [--operators window_attention]

Occupancy is the share of a multiprocessor's warps that can be resident. Its limiter is the resource
that runs out first: registers, shared memory, or the number of programs or warps. Waves are the
case's programs over the places that the card's multiprocessors have for them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .ledger import load
from .registry import ENTRIES
from .targets import TARGETS, bound

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: one line for each recorded kernel."""
    operators = sorted({entry.operator for entry in ENTRIES.values() if entry.ledger})
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bounds",
                                     description="Occupancy of every recorded kernel.")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=["sm_90"])
    parser.add_argument("--operators", nargs="+", choices=operators, default=operators)
    options = parser.parse_args(argv)
    lines = [("target", "kernel", "registers", "shared", "programs", "occupancy", "limited by",
              "waves", "matrix instructions")]
    for operator in options.operators:
        for target in options.targets:
            for key, facts in load(operator)["targets"].get(target, {}).items():
                b, matrix = bound(facts, target), sum(facts.get("tensor_core", {}).values())
                lines.append((target, key, str(facts.get("registers", "")), str(facts["shared"]),
                              str(b.programs), f"{b.occupancy:.0%}", b.limiter,
                              f"{b.waves:.2f}" if b.waves else "",
                              f"{matrix / facts['instructions']:.1%}" if matrix else ""))
    widths = [max(map(len, column)) for column in zip(*lines)]
    print("\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip()
                    for line in lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
