"""Compare two result files or folders: ``python -m benchmarks.compare BEFORE AFTER``.

A ratio is before over after: above one, AFTER is faster. It is marked ``~`` where the p20-p80
ranges overlap, which is to say that the difference may be noise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import records
from .records import KEY, Row

__all__ = ["Ratio", "compare", "main"]


@dataclass(frozen=True)
class Ratio:
    """One measurement of two runs."""

    before: Row
    after: Row
    ratio: float
    noise: bool


def compare(before: Sequence[Row], after: Sequence[Row]) -> list[Ratio]:
    """Every cell that both sides measured, in the order of ``after``."""
    def measured(rows: Sequence[Row]) -> dict[tuple[str, ...], Row]:
        return {tuple(getattr(row, k) for k in KEY): row for row in rows if row.p50_us}

    old, out = measured(before), []
    for key, new in measured(after).items():
        if (was := old.get(key)) is not None:
            overlap = was.p20_us <= new.p80_us and new.p20_us <= was.p80_us
            out.append(Ratio(was, new, was.p50_us / new.p50_us, overlap))
    return out


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns 1 when the two sides have no cell in common."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args(argv)
    before, after = records.load(options.before), records.load(options.after)
    ratios = compare(before, after)
    for what in ("device", "torch", "triton"):
        sides = [", ".join(sorted({getattr(row, what) for row in rows}))
                 for rows in (before, after)]
        if sides[0] != sides[1]:
            print(f"{what}: {sides[0]} -> {sides[1]}")
    lines = [(*KEY, "before us", "after us", "ratio")]
    for r in ratios:
        lines.append((*(getattr(r.after, k) for k in KEY), f"{r.before.p50_us:.1f}",
                      f"{r.after.p50_us:.1f}", f"{r.ratio:.2f}{'~' if r.noise else ''}"))
    widths = [max(map(len, column)) for column in zip(*lines)]
    print("\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip()
                    for line in lines))
    if not ratios:
        print("the two sides have no measurement in common", file=sys.stderr)
    return 0 if ratios else 1


if __name__ == "__main__":
    sys.exit(main())
