"""The command line of the benchmarks: ``python -m benchmarks --help``.

On a GPU every entry is measured at its real shapes; on a CPU at real shapes of a size that a CPU
can do, in fp32, operators in bf16 too. Results are written after every cell.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from . import compare, records
from .clock import ceilings
from .entry import DTYPES, KINDS, Entry
from .plot import plot
from .records import Row
from .registry import ABSENT, ENTRIES
from .runner import MODES, PASSES, Plan, measure, measure_compiled

__all__ = ["main"]

#: Seconds that a provider may take that compiles.
COMPILE_LIMIT = 120.0

#: Seconds for all on a CPU, so that a whole run stays below ten minutes.
CPU_LIMIT = 540.0


def _select(names: Sequence[str], known: Iterable[str], what: str) -> list[str]:
    known = list(known)
    for name in names:
        if name not in known:
            raise SystemExit(f"unknown {what} {name!r}, expected one of {', '.join(known)}")
    return list(names) or known


def _parser(prog: str, out: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure operators and components against eager torch and their peers, on "
        "the device that is\nthere. A wrong result has no figure. Results are CSV and JSON files "
        "and one HTML page.")
    parser.add_argument("names", nargs="*", metavar="ENTRY",
                        help=f"of {', '.join(ENTRIES)} (default: all)")
    parser.add_argument("--kind", nargs="+", choices=KINDS, help="only entries of these kinds")
    parser.add_argument("--shapes", nargs="+", default=[], help="named shapes, or tiny")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES),
                        help="(default: all; on a CPU fp32, and for operators bf16)")
    parser.add_argument("--providers", nargs="+", metavar="NAME", default=[])
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=PASSES)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--seconds", type=float, help="time for one cell (1, on a CPU 0.4)")
    parser.add_argument("--limit", type=float, metavar="SECONDS",
                        help="time for all; what does not fit is left out and says so (on a CPU "
                        f"{CPU_LIMIT:g})")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=out, metavar="FOLDER",
                        help="of the results (default: %(default)s)")
    parser.add_argument("--compare", type=Path, metavar="BASE",
                        help="results to hold the new ones against; fails where one is slower")
    compare.add_options(parser)
    return parser


@dataclass
class Suite:
    """A run over many cells.

    Attributes:
        out: folder of the results.
        where: conditions of every figure.
        ends: when the time for all is over, by ``perf_counter``.
        rows: what was measured so far, all of it on disk.
    """

    device: torch.device
    plan: Plan
    out: Path
    where: dict[str, str]
    ends: float
    ceiling: dict[str, float]
    rows: list[Row] = field(default_factory=list)

    def cells(self, names: Sequence[str], shapes: Sequence[str], dtypes: Sequence[str]
              ) -> list[tuple[Entry, str, str]]:
        """Every entry at the shapes and data types that it has: the first shape of all first, so
        that a limit cuts off the rest. Without ``dtypes`` all on a GPU; on a CPU fp32, and bf16
        for operators."""
        found = []
        for entry in (ENTRIES[name] for name in names):
            usual = list(entry.shapes) if self.device.type == "cuda" else \
                list(entry.cpu) or ["tiny"]
            known = {"tiny", *entry.shapes, *entry.cpu}
            mine = [s for s in shapes or usual if s in known]
            types = list(DTYPES) if self.device.type == "cuda" else \
                ["fp32", "bf16"] if entry.kind == "operator" else ["fp32"]
            found += [(nth, place, (entry, shape, dtype))
                      for place, dtype in enumerate(dtypes or types) if dtype in entry.dtypes
                      for nth, shape in enumerate(mine)]
        return [cell for *_, cell in sorted(found, key=lambda each: each[:2])]

    def absent(self, names: Sequence[str], dtypes: Sequence[str]) -> None:
        """An empty row for every peer that is not installed, which says so."""
        for entry in (ENTRIES[name] for name in names):
            for peer, why in entry.absent.items():
                if self.plan.providers is None or peer in self.plan.providers:
                    print(f"{entry.name}: {peer} is left out: {why}")
                    self.rows += [self.marked(Row(
                        entry.name, entry.kind, shape, dtype, peer, passes, "call",
                        status="absent", note=why)) for _, shape, dtype in self.cells(
                            [entry.name], (), dtypes)[:1] for passes in self.passes(entry)]

    def marked(self, row: Row) -> Row:
        """A row with what it was measured on."""
        return replace(row, torch=self.where["torch"], triton=self.where["triton"],
                       device=self.where["device"])

    def passes(self, entry: Entry) -> Sequence[str]:
        """The passes of the plan that an entry has."""
        return self.plan.passes if entry.trains else \
            [each for each in self.plan.passes if each == "fwd"]

    def run(self, cell: tuple[Entry, str, str], compiled: bool) -> None:
        """Measure one cell and write what came out; say so where no time is left."""
        entry, shape, dtype = cell
        if not self.plan.chosen(entry, compiled):
            return
        start = time.perf_counter()
        left = self.ends - start
        if left < 1:
            new = self.left_out(cell, compiled)
        elif compiled:
            new = measure_compiled(entry, shape, dtype, self.device, self.plan, self.ceiling,
                                   min(COMPILE_LIMIT, left))
        else:
            new = measure(entry, shape, dtype, self.device, self.plan, self.ceiling)
        self.rows += map(self.marked, new)
        records.save([row for row in self.rows if (row.op, row.dtype) == (entry.name, dtype)],
                     self.out, self.where, {"ceilings": self.ceiling})
        plot(self.rows, self.out, self.ceiling)  # a run that is stopped leaves its page, too
        print(f"{entry.name} {dtype} {shape}{' compiled' * compiled}: "
              f"{time.perf_counter() - start:.1f} s", flush=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def left_out(self, cell: tuple[Entry, str, str], compiled: bool) -> list[Row]:
        """Empty rows of a cell for which no time is left."""
        entry, shape, dtype = cell
        return [Row(entry.name, entry.kind, shape, dtype, provider, each, "call",
                    status="left out", note="no time was left")
                for provider in self.plan.chosen(entry, compiled) for each in self.passes(entry)]


def main(argv: Sequence[str] | None = None, prog: str = "python -m benchmarks",
         out: Path = Path("benchmarks/results/new")) -> int:
    """Command line.

    Args:
        prog: what it is called by.
        out: where results go by default.

    Returns:
        1 when fastdet was wrong, or slower than the results it is compared with; a peer that is
        wrong has no figure.
    """
    options = _parser(prog, out).parse_args(argv)
    names = [name for name in _select(options.names, ENTRIES, "entry")
             if options.kind is None or ENTRIES[name].kind in options.kind]
    if not names:
        raise SystemExit(f"{', '.join(options.names)} is of another kind than "
                         f"{' and '.join(options.kind)}")
    known = {p for name in names for p in (*ENTRIES[name].providers, *ENTRIES[name].absent)}
    _select(options.providers, sorted(known), "provider")
    _select(options.shapes, sorted({"tiny"} | {
        s for name in names for s in (*ENTRIES[name].shapes, *ENTRIES[name].cpu)}), "shape")
    device = _device(options.device)
    cpu = device.type == "cpu"
    where = records.conditions(device)
    base = records.load(options.compare) if options.compare else None
    if base is not None and not options.across_hardware:
        compare.refuse_other_hardware(base, where["device"])
    for name, why in ABSENT.items():
        if not options.names:
            print(f"{name} is left out: {why}")
    ends = time.perf_counter() + (options.limit or (CPU_LIMIT if cpu else float("inf")))
    plan = Plan(options.providers or None, options.passes, options.modes,
                seconds=options.seconds if options.seconds is not None else 0.4 if cpu else 1.0,
                reps=(6, 100) if cpu else (20, 200))
    suite = Suite(device, plan, options.out, where, ends, ceilings(device))
    print("ceilings: " + ", ".join(
        f"{k} {v / 1e12:.3g} {'TB/s' if k == 'bytes' else 'TFLOP/s'}"
        for k, v in suite.ceiling.items()), flush=True)
    dtypes = options.dtypes or []
    suite.absent(names, dtypes)
    # What compiles comes last: it takes longest, and the limit may cut it off.
    for compiled in (False, True):
        for cell in suite.cells(names, options.shapes, dtypes):
            entry, shape, dtype = cell
            if compiled and cpu and not options.shapes and (
                    shape != next(iter(entry.cpu), shape) or dtype != (*dtypes, "fp32")[0]):
                continue  # on a CPU a compiler takes longer than all else; once is enough
            suite.run(cell, compiled)
    print(records.table(suite.rows))
    print(plot(suite.rows, options.out, suite.ceiling))
    return _verdict(suite.rows, base, options)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SystemExit(f"device {name!r}: {reason}; known are cpu and cuda") from None
    if device.type not in ("cpu", "cuda"):
        raise SystemExit(f"device {name!r}: what is measured is a cpu or a cuda device")
    return device


def _verdict(rows: Sequence[Row], base: Sequence[Row] | None, options: argparse.Namespace) -> int:
    red = [row for row in rows if row.status in ("wrong", "error")]
    if red:
        print(f"{len(red)} cells are red and have no figure", file=sys.stderr)
    wrong = any(row.provider == "fastdet" for row in red)
    slower = base is not None and compare.report(base, rows, options.threshold,
                                                 options.across_hardware) != 0
    return 1 if wrong or slower else 0
