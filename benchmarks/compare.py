"""Compare two result files or folders: ``python -m benchmarks.compare BEFORE AFTER``.

A ratio is before over after: above one, AFTER is faster. Where the p20-p80 ranges overlap the
difference may be noise, and where it is below the threshold nobody asked for it: both are "no
difference". Fails when a row is slower, or is measured no longer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import records
from .records import KEY, Row

__all__ = ["Verdict", "add_options", "compare", "main",
           "refuse_other_hardware", "report"]


@dataclass(frozen=True)
class Verdict:
    """One measurement of two runs.

    Attributes:
        row: of AFTER, or of BEFORE where AFTER has none.
        before: median in microseconds.
        after: median in microseconds, ``None`` where it was not measured.
        word: ``'faster'``, ``'slower'``, ``'no difference'`` or ``'gone'``.
    """

    row: Row
    before: float
    after: float | None
    word: str

    @property
    def ratio(self) -> float | None:
        """Before over after."""
        return self.before / self.after if self.after else None


def _word(old: Row, new: Row, threshold: float) -> str:
    sides = (old.p20_us, old.p50_us, old.p80_us, new.p20_us, new.p50_us, new.p80_us)
    old20, old50, old80, new20, new50, new80 = (side or 0.0 for side in sides)
    if old20 <= new80 and new20 <= old80:
        return "no difference"
    if new50 > old50 * (1 + threshold):
        return "slower"
    return "faster" if old50 > new50 * (1 + threshold) else "no difference"


def compare(before: Sequence[Row], after: Sequence[Row], threshold: float = 0.1) -> list[Verdict]:
    """A verdict on every cell that BEFORE measured and AFTER has, or no longer measures.

    Args:
        threshold: share of the time by which a difference must exceed it to count.
    """
    def by_key(rows: Sequence[Row]) -> dict[tuple[str, ...], Row]:
        return {tuple(getattr(row, k) for k in KEY): row for row in rows}

    new, verdicts = by_key(after), []
    asked = {(row.op, row.shape, row.dtype) for row in after}
    for key, old in by_key(before).items():
        if old.p50_us is None or (old.op, old.shape, old.dtype) not in asked:
            continue
        row = new.get(key)
        if row is not None and row.p50_us is not None:
            verdicts.append(Verdict(row, old.p50_us, row.p50_us, _word(old, row, threshold)))
        elif row is None or row.status in ("wrong", "error"):
            verdicts.append(Verdict(row or old, old.p50_us, None, "gone"))
    return verdicts


def refuse_other_hardware(before: Sequence[Row], device: str) -> None:
    """Say so before anything is measured that could not be compared.

    Raises:
        ValueError: results were measured on another device, or there are none.
    """
    if not before:
        raise ValueError("there is nothing to compare with")
    if (old := {row.device for row in before}) != {device}:
        raise ValueError(f"the results to compare with are of {', '.join(sorted(old))}, this is "
                         f"{device}: times of one say nothing of the other; --across-hardware "
                         "compares them all the same")


def report(before: Sequence[Row], after: Sequence[Row], threshold: float,
           across_hardware: bool) -> int:
    """Print the verdicts.

    Returns:
        1 when a row is slower or gone, 2 when there is nothing to compare, or the hardware is
        another and nobody said that this is meant; else 0.
    """
    for what in ("device", "torch", "triton"):
        old, new = (", ".join(sorted({getattr(row, what) for row in rows}))
                    for rows in (before, after))
        if old != new:
            print(f"{what}: {old} -> {new}")
            if what == "device" and not across_hardware:
                print("the hardware is another: times of one say nothing of the other; "
                      "--across-hardware compares them all the same", file=sys.stderr)
                return 2
    verdicts = compare(before, after, threshold)
    lines = [(*KEY, "before us", "after us", "ratio", "verdict")]
    for v in verdicts:
        lines.append((*(getattr(v.row, k) for k in KEY), f"{v.before:.1f}",
                      f"{v.after:.1f}" if v.after else "",
                      f"{v.ratio:.2f}" if v.ratio else "", v.word))
    widths = [max(map(len, column)) for column in zip(*lines)]
    print("\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip()
                    for line in lines))
    if not verdicts:
        print("the two sides have no measurement in common", file=sys.stderr)
        return 2
    counts = {word: sum(v.word == word for v in verdicts)
              for word in ("faster", "slower", "no difference", "gone")}
    again = {tuple(getattr(row, k) for k in KEY) for row in after if row.p50_us is not None}
    lost = sum(row.p50_us is not None and tuple(getattr(row, k) for k in KEY) not in again
               for row in before) - counts["gone"]
    print(", ".join(f"{n} {word}" for word, n in counts.items()) + f"; threshold {threshold:.0%}"
          + (f"; {lost} of the first have not been measured again" if lost else ""))
    return 1 if counts["slower"] or counts["gone"] else 0


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that say how two runs are compared."""
    parser.add_argument("--threshold", type=float, default=0.1, metavar="SHARE",
                        help="a difference below it does not count (default: %(default)s)")
    parser.add_argument("--across-hardware", action="store_true",
                        help="compare although the hardware is another")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns what :func:`report` returns."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    add_options(parser)
    options = parser.parse_args(argv)
    return report(records.load(options.before), records.load(options.after), options.threshold,
                  options.across_hardware)


if __name__ == "__main__":
    sys.exit(main())
