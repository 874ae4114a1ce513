"""One command for a nightly job: ``fastdet nightly [--base FOLDER] [--out FOLDER]``.

Is everything right, does everything compile to what it did, is anything slower? In this order
``fastdet verify``, the ledger against what is recorded, and the suite against earlier results run,
each in a process of its own. ``summary.md`` says what each found, and the exit status is the worst.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .records import conditions

__all__ = ["Step", "main", "run_steps", "steps"]

#: Lines at the end of a step's output that the summary shows.
TAIL = 15


@dataclass(frozen=True)
class Step:
    """One of the job's commands.

    Attributes:
        name: what it asks.
        command: arguments of the interpreter.
        limit: seconds.
    """

    name: str
    command: tuple[str, ...]
    limit: float


def steps(options: argparse.Namespace) -> list[Step]:
    """What the job runs."""
    found = [
        Step("Is every operator right?", ("-m", "fastdet", "verify", "--seconds",
                                          str(options.seconds)), 10 * options.seconds + 300),
        Step("Does every kernel compile to what is recorded?",
             ("-m", "fastdet.benchmarks.ledger", "--targets", *options.targets), 3600),
    ]
    if options.diff:
        found.append(Step("Does another Triton make a kernel worse?", (
            "-m", "fastdet.benchmarks.ledger", "--diff", *map(str, options.diff)), 60))
    bench = ["-m", "fastdet", "bench", "--out", str(options.out / "results")]
    if options.limit:
        bench += ["--limit", str(options.limit)]
    if options.base:
        bench += ["--compare", str(options.base)]
    name = "Is anything slower?" if options.base else "How fast is it?"
    return [*found, Step(name, (*bench, *options.entries), 7200)]


def run_steps(todo: Sequence[Step], out: Path) -> int:
    """Run the steps one after the other and write what came out.

    Args:
        out: folder of ``summary.md`` and of each step's whole output.

    Returns:
        0 where all passed, else the worst exit status; 1 for a step that took too long or crashed.
    """
    out.mkdir(parents=True, exist_ok=True)
    where = conditions(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    lines, table, worst = [], ["| | | seconds |", "| --- | --- | --- |"], 0
    for nth, step in enumerate(todo, 1):
        log, start = out / f"step{nth}.log", time.perf_counter()
        with log.open("w") as file:
            try:
                code = subprocess.run(
                    [sys.executable, *step.command], stdout=file, stderr=subprocess.STDOUT,
                    timeout=step.limit, check=False).returncode
                said = "passed" if code == 0 else f"failed with {code}"
            except subprocess.TimeoutExpired:
                code, said = 1, f"took more than {step.limit:.0f} s"
        worst = max(worst, code if code >= 0 else 1)
        seconds = time.perf_counter() - start
        print(f"{step.name} {said} ({seconds:.0f} s)", flush=True)
        table.append(f"| {step.name} | {said} | {seconds:.0f} |")
        tail = log.read_text(errors="replace").splitlines()[-TAIL:]
        lines += [f"## {step.name}", f"{said}; all of it is in `{log.name}`", "```",
                  *(line[:160] for line in tail), "```", ""]
    head = [f"# fastdet {where['fastdet']}: {'all passed' if worst == 0 else 'FAILED'}", "",
            f"{where['device']}, torch {where['torch']}, triton {where['triton']}, Python "
            f"{where['python']}", ""]
    summary = out / "summary.md"
    summary.write_text("\n".join([*head, *table, "", *lines]) + "\n")
    print(summary)
    return worst


def main(argv: Sequence[str] | None = None, prog: str = "python -m benchmarks.nightly") -> int:
    """Command line; returns the worst exit status of the steps."""
    parser = argparse.ArgumentParser(prog=prog,
                                     description="Verify, ledger and benchmarks in one summary.")
    parser.add_argument("entries", nargs="*", metavar="ENTRY", help="of the suite (default: all)")
    parser.add_argument("--base", type=Path, metavar="FOLDER",
                        help="results to hold the new ones against; fails where one is slower")
    parser.add_argument("--diff", type=Path, action="append", metavar="FOLDER",
                        help="another ledger, such as another Triton's; may be given again; fails "
                        "where a kernel is worse there")
    parser.add_argument("--targets", nargs="+", default=["sm_90", "gfx942"],
                        help="of the ledger (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="for verify")
    parser.add_argument("--limit", type=float, help="seconds for the suite")
    parser.add_argument("--out", type=Path, default=Path("out/nightly"), metavar="FOLDER")
    options = parser.parse_args(argv)
    if options.base and not options.base.exists():
        parser.error(f"--base: there is no {options.base}")
    return run_steps(steps(options), options.out)


if __name__ == "__main__":
    sys.exit(main())
