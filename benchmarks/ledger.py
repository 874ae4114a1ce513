"""The ledger: what every kernel compiles to, held without a GPU.

Each declared case (the ``ledger`` field of :mod:`benchmarks.registry`) calls the public operator
while launches are recorded instead of performed, so the kernels, configs and argument
specialisations are the shipped ones (:mod:`benchmarks.binary`). Every distinct launch is compiled
ahead of time for each of :data:`benchmarks.targets.TARGETS`, and the facts of the binary are kept
in ``benchmarks/ledger/<operator>.json``. :mod:`benchmarks.gate` says what got worse.

    python -m benchmarks.ledger              compare, print what changed, fail as the gate does
    python -m benchmarks.ledger --update     rewrite the files
    python -m benchmarks.ledger --targets sm_90 --operators grid_priors
    python -m benchmarks.ledger --update --time --folder out/3.6     under another Triton
    python -m benchmarks.ledger --diff out/3.6 out/3.8               a column for each
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from .binary import Entries, distinct, record
from .gate import changes, faults, worse
from .registry import ENTRIES, Entry
from .targets import TARGETS, Target

FOLDER = Path(__file__).with_name("ledger")

#: (entry, case, target)
Job = tuple[str, str, str]


def load(operator: str, folder: Path | None = None) -> dict[str, Any]:
    """The recorded ledger of an operator: ``{"triton": version, "targets": {name: entries}}``."""
    path = (folder or FOLDER) / f"{operator}.json"
    return json.loads(path.read_text()) if path.exists() else {"triton": None, "targets": {}}


def save(operator: str, targets: dict[str, Entries], triton_version: str,
         folder: Path | None = None, seconds: dict[str, float] | None = None) -> None:
    """Write an operator's ledger, one line per entry.

    Args:
        seconds: of CPU that its compilation took, by target, where it was measured.
    """
    blocks = []
    for target in (name for name in TARGETS if name in targets):
        lines = [f"      {json.dumps(key)}: {json.dumps(facts)}"
                 for key, facts in sorted(targets[target].items())]
        blocks.append(f"    {json.dumps(target)}: {{\n" + ",\n".join(lines) + "\n    }")
    folder = folder or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    timed = f'  "compile_s": {json.dumps(seconds)},\n' if seconds else ""
    (folder / f"{operator}.json").write_text(
        f'{{\n  "operator": {json.dumps(operator)},\n  "triton": {json.dumps(triton_version)},\n'
        f"{timed}"
        '  "targets": {\n' + ",\n".join(blocks) + "\n  }\n}\n")


def compile_case(entry: Entry, case: str, target: str, known: Entries | None = None) -> Entries:
    """Record and compile one case for one target.

    A kernel that a case launches in several specialisations gets one entry each, ``name#2`` …

    Args:
        entry: of the table.
        case: one of its ``ledger``.
        target: a name of :data:`TARGETS`.
        known: see :func:`benchmarks.binary.distinct`.
    """
    entries: Entries = {}
    card = TARGETS[target]
    for kernel, facts in distinct(record(entry, case, card), card, known):
        key, nth = f"{case}/{kernel}", 1
        while key in entries:
            nth += 1
            key = f"{case}/{kernel}#{nth}"
        entries[key] = facts
    return entries


def jobs_of(operators: Iterable[str], targets: Iterable[str]) -> list[Job]:
    """Every declared (entry, case, target) of some operators."""
    operators, targets = set(operators), list(targets)
    return [(entry.name, case, target) for entry in ENTRIES.values()
            if entry.operator in operators for case in entry.ledger for target in targets]


def gated_jobs() -> list[Job]:
    """What every test run compiles: all of sm_90; of gfx942 what is measured, under torch's usual
    settings; of the others one case an entry.

    The rest is compiled by the command line alone, to keep the tests within minutes.
    """
    every = jobs_of({entry.operator for entry in ENTRIES.values()}, TARGETS)
    plain = {name: [case for case in entry.ledger
                    if "+" not in case and case.rpartition("/")[0] in entry.shapes]
             for name, entry in ENTRIES.items()}
    return [(name, case, target) for name, case, target in every
            if target == "sm_90" or (target == "gfx942" and case in plain[name])
            or case == plain[name][-1]]


def operators_of(jobs: Iterable[Job]) -> list[str]:
    """The operators that jobs belong to, in the registry's order."""
    return list(dict.fromkeys(ENTRIES[name].operator for name, _, _ in jobs))


def lacks(target: Target) -> str:
    """Why the Triton that is installed cannot compile for a target, else empty."""
    if target.backend == "hip":
        from triton.backends.amd.compiler import HIPBackend

        # Before 3.5 Triton links by a program of ROCm's, which its wheel does not hold.
        with_linker = getattr(HIPBackend, "path_to_rocm_lld", lambda: None)
        try:
            with_linker()
        except Exception as error:
            return str(error)
    return ""


def known(operator: str, target: str, folder: Path | None = None) -> Entries:
    """What is recorded of an operator by the Triton that is installed."""
    import triton

    recorded = load(operator, folder)
    return recorded["targets"].get(target, {}) if recorded["triton"] == triton.__version__ else {}


def _cpu() -> float:
    """Seconds of this process and of the assemblers that it started."""
    return sum(os.times()[:4])


def compile_job(job: Job, folder: Path | None = None, anew: bool = False
                ) -> tuple[Entries, float, str]:
    """The facts of a case, the seconds of CPU that they took, and why there are none.

    Args:
        job: what to compile.
        folder: of the recorded facts, which stand for kernels that come to the same PTX.
        anew: compile everything whole.
    """
    torch.set_num_threads(1)
    name, case, target = job
    start, entries, why = _cpu(), Entries(), ""
    try:
        entry = ENTRIES[name]
        same = {} if anew else known(entry.operator, target, folder)
        entries = compile_case(entry, case, target, same)
    except Exception as error:  # whatever a compiler throws is the answer
        reason = str(error).strip().splitlines() or [""]
        why = f"{case} on {target} does not compile: {type(error).__name__}: {reason[-1]}"
    return entries, _cpu() - start, why


def _parser(every: list[str], prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Compile every kernel ahead of time, without a GPU, and hold "
        "what comes out against what is recorded: registers, spills, shared memory, matrix "
        "instructions, accesses, waves. Fails on a new spill, a float64 instruction, shared memory "
        "over the card's limit, a kernel that does not compile, or one that got worse. With "
        "--update it says what got worse, and records it.")
    parser.add_argument("--update", action="store_true", help="write the files anew")
    parser.add_argument("--folder", type=Path, default=FOLDER, metavar="FOLDER",
                        help="of the files, such as one for another Triton (default: what is "
                        "recorded)")
    parser.add_argument("--diff", type=Path, nargs="+", metavar="FOLDER",
                        help="compile nothing: print how the files in these folders differ from "
                        "what is recorded, a column each; 1 where a kernel is worse")
    parser.add_argument("--time", action="store_true",
                        help="compile all of it in an empty cache, and say how long that takes; "
                        "fails where it took more than twice what is recorded")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--operators", nargs="+", choices=every, default=every)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="N",
                        help="processes (default: %(default)s)")
    return parser


def _compile(jobs: list[Job], processes: int, folder: Path, anew: bool
             ) -> list[tuple[Entries, float, str]]:
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as cache, \
            mock.patch.dict(os.environ, {"TRITON_CACHE_DIR": cache} if anew else {}), \
            ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        return list(pool.map(partial(compile_job, folder=folder, anew=anew), jobs))


def _slower(operator: str, before: dict[str, float], seconds: dict[str, float]) -> list[str]:
    """Which targets took more than twice the recorded time, and more than a second above it."""
    return [f"{operator} on {target} takes {now} s of CPU to compile, was {before[target]} s"
            for target, now in seconds.items()
            if target in before and now > max(2 * before[target], before[target] + 1)]


def main(argv: list[str] | None = None, prog: str = "python -m benchmarks.ledger") -> int:
    """Command line; see the module's docstring."""
    every = operators_of(jobs_of({e.operator for e in ENTRIES.values()}, TARGETS))
    parser = _parser(every, prog)
    options = parser.parse_args(argv)
    if options.diff:
        from .difference import print_diff

        return print_diff(options.diff, options.operators, options.targets)
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        parser.error("the ledger compiles; unset TRITON_INTERPRET")
    import triton

    missing = {target: why for target in options.targets if (why := lacks(TARGETS[target]))}
    for target, why in missing.items():
        print(f"{target} is left out: {why}")
    targets = [target for target in options.targets if target not in missing]
    jobs = jobs_of(options.operators, targets)
    results = _compile(jobs, options.jobs, options.folder, options.time)

    found: list[str] = []
    lost: list[str] = []
    for operator in options.operators:
        mine = [(ENTRIES[job[0]], *job[1:], *result) for job, result in zip(jobs, results)
                if ENTRIES[job[0]].operator == operator]
        fresh: dict[str, Entries] = {}
        seconds: dict[str, float] = {}
        for _, _, target, entries, spent, _ in mine:
            fresh.setdefault(target, {}).update(entries)
            seconds[target] = round(seconds.get(target, 0.0) + spent, 1)
        recorded = load(operator, options.folder)
        if recorded["triton"] in (None, triton.__version__) or options.update:
            for target, entries in fresh.items():
                before = recorded["targets"].get(target, {})
                for line in changes(before, entries):
                    print(f"{operator} {target} {line}")
                lost += [f"{operator} {target} {key}: {', '.join(phrases)}"
                         for key, facts in entries.items() if options.update and key in before
                         and (phrases := worse(before[key], facts, target))]
        if options.time:
            found += _slower(operator, recorded.get("compile_s", {}), seconds)
        if options.update:
            same = recorded["triton"] == triton.__version__
            kept = recorded["targets"] if same else {}
            timed = {**(recorded.get("compile_s", {}) if same else {}),
                     **(seconds if options.time else {})}
            save(operator, {**kept, **fresh}, triton.__version__, options.folder, timed)
            recorded = load(operator, options.folder)
        for entry, case, target, entries, _, why in mine:
            found += [why] if why else faults(entry, case, target, entries, recorded,
                                              triton.__version__)
        print(f"{operator}: {sum(len(each[3]) for each in mine)} entries, "
              f"{sum(seconds.values()):.1f} s of CPU to compile")
    for line in lost:
        print(f"WORSE {line}")
    for line in found:
        print(f"FAULT {line}", file=sys.stderr)
    print(f"triton {triton.__version__}: {sum(len(entries) for entries, _, _ in results)} entries "
          f"of {len(options.operators)} operators for {', '.join(targets)}; {len(found)} faults")
    return 1 if found or not jobs else 0


if __name__ == "__main__":
    sys.exit(main())
