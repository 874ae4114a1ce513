"""The ledger: what every kernel compiles to, held without a GPU.

Each declared case (the ``ledger`` field of :mod:`benchmarks.registry`) calls the public operator
while launches are recorded instead of performed, so the kernels, configs and argument
specialisations are the shipped ones. Every distinct launch is compiled ahead of time for each
target with Triton's own binder and compiler, and the facts of the binary are kept in
``benchmarks/ledger/<operator>.json``.

    python -m benchmarks.ledger              compare, print what changed, fail as the gate does
    python -m benchmarks.ledger --update     rewrite the files
    python -m benchmarks.ledger --targets sm_90 --operators grid_priors
    python -m benchmarks.ledger --update --folder out/3.6     under another Triton
    python -m benchmarks.ledger --diff out/3.6                and what differs
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from .registry import DTYPES, ENTRIES, Entry, differentiate

FOLDER = Path(__file__).with_name("ledger")

Facts = dict[str, Any]
#: ``{"<case>/<kernel>": facts}`` of one operator on one target.
Entries = dict[str, Facts]


@dataclass(frozen=True)
class Target:
    """A GPU to compile for.

    Attributes:
        backend: Triton's backend.
        arch: what that backend calls the GPU.
        warp: threads in a warp.
        capability: what launch configs are chosen by.
        shared: bytes of shared memory that one program may use.
    """

    backend: str
    arch: int | str
    warp: int
    capability: tuple[int, int]
    shared: int


TARGETS = {
    "sm_80": Target("cuda", 80, 32, (8, 0), 163 * 1024),
    "sm_90": Target("cuda", 90, 32, (9, 0), 227 * 1024),
    "sm_100": Target("cuda", 100, 32, (10, 0), 227 * 1024),
    "gfx942": Target("hip", "gfx942", 64, (0, 0), 64 * 1024),
}


# --- from a call to its launches ---------------------------------------------------------------

@contextmanager
def recording(target: Target) -> Iterator[list[Any]]:
    """Record every launch inside as ``target`` would get it, whatever devices this machine has."""
    import fastdet
    from fastdet.kernels import dispatch, launch

    anywhere = mock.patch.object(dispatch, "device_reason", return_value=None)
    with (fastdet.backend("triton"), anywhere,
          launch.record_launches(target.capability) as launches):
        yield launches


def record(entry: Entry, case: str, target: Target) -> list[Any]:
    """The launches of one declared case, forward and backward, on memory nobody reads."""
    shape, _, dtype = case.rpartition("/")
    with recording(target) as launches:
        inputs = entry.make(dtype=DTYPES[dtype], device=torch.device("cpu"),
                            **entry.shapes[shape])
        run = entry.providers["fastdet"].run
        if entry.trains:
            differentiate(run, inputs)
        else:
            run(inputs)
    return launches


# --- from a launch to a binary -----------------------------------------------------------------

class _Pointer:
    """Stands for a tensor in front of Triton's binder, which asks for a type and an address.

    A real allocation starts at a multiple of 512 bytes, so the offset alone decides alignment.
    """

    def __init__(self, tensor: torch.Tensor) -> None:
        self.dtype = tensor.dtype
        self._address = 4096 + tensor.storage_offset() * tensor.element_size()

    def data_ptr(self) -> int:
        return int(self._address)

    def ptr_range(self) -> int:  # what the AMD backend asks for
        return 2**31 - 1


class Driver:
    """Names a GPU that is not there; each target is a device of its own number, as Triton keeps
    what it compiled by device."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def get_current_device(self) -> int:
        return list(TARGETS.values()).index(self._target)

    def get_current_stream(self, device: int = 0) -> int:
        return 0

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget(self._target.backend, self._target.arch, self._target.warp)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def compile_launch(launch: Any, target: Target) -> Any:
    """Compile one recorded launch for ``target`` as Triton's JIT would on that GPU.

    By ``warmup``, which every Triton from 3.3 has, in front of a driver that stands for the GPU.
    """
    from triton.runtime import driver

    args = [_Pointer(a) if isinstance(a, torch.Tensor) else a for a in launch.args]
    driver.set_active(Driver(target))
    try:
        with mock.patch.dict(os.environ, TRITON_DISABLE_LINE_INFO="1"):
            return launch.kernel.warmup(*args, grid=launch.grid, **launch.options)
    finally:
        with suppress(RuntimeError):  # without a GPU there is no driver to go back to
            driver.reset_active()


# --- from a binary to facts --------------------------------------------------------------------

_SASS_LINE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", re.MULTILINE)
_SASS_TENSOR_CORE = re.compile(r"(U?[HIQBO]G?MMA|UTC\w*MMA)\b")
_SASS_F64 = re.compile(r"D(ADD|MUL|FMA|SETP|MNMX|MMA|SET)\b|\S*\.F64\b|MUFU\.\w+64H")
_SASS_MEMORY = re.compile(r"(LDG|STG|LDS|STS|LDGSTS|LDSM|STSM|RED|REDG|ATOM|ATOMG|UBLKCP|UTMALDG"
                          r"|UTMASTG|LDTM|STTM)\b(\S*)")
_GCN_TENSOR_CORE = re.compile(r"v_s?mfma\w*")
_GCN_F64 = re.compile(r"v_\w*_f64\w*")
_GCN_MEMORY = re.compile(r"((?:global|buffer|flat|ds)_(?:load|store|read|write|atomic)\w*)")


def _sass_width(suffix: str) -> str:
    """Bits that one thread moves: 128, 64, 16, 8, or 32 where SASS names none."""
    for mark, bits in ((".128", "128"), (".64", "64"), (".U16", "16"), (".S16", "16"),
                       (".U8", "8"), (".S8", "8"), (".ENL2.256", "256")):
        if mark in suffix:
            return bits
    return "32"


def sass_facts(sass: str) -> Facts:
    """Facts of a listing of NVIDIA machine code."""
    code = [re.sub(r"^@!?U?P\w+\s+", "", line) for line in _SASS_LINE.findall(sass)]
    opcodes = [line.split()[0] for line in code if line]
    memory: Counter[str] = Counter()
    for opcode in opcodes:
        if found := _SASS_MEMORY.match(opcode):
            memory[f"{found[1]}.{_sass_width(found[2])}"] += 1
    return {
        "spills": sum(op.startswith(("LDL", "STL")) for op in opcodes),
        "tensor_core": dict(sorted(Counter(
            m[1] for op in opcodes if (m := _SASS_TENSOR_CORE.match(op))).items())),
        "memory": dict(sorted(memory.items())),
        "f64": sum(bool(_SASS_F64.match(op)) for op in opcodes),
        "instructions": len(opcodes),
        "code": hashlib.sha256("\n".join(code).encode()).hexdigest()[:16],
    }


def gcn_facts(assembly: str) -> Facts:
    """Facts of AMD assembly and the metadata at its end."""
    def meta(name: str) -> int:
        found = re.search(rf"^\s*\.{name}:\s*(\d+)", assembly, re.MULTILINE)
        return int(found[1]) if found else 0

    body = assembly[: assembly.rindex("s_endpgm")]
    lines = [line.partition(";")[0].strip() for line in body.splitlines()]
    code = [line for line in lines if line and not line.startswith((".", "//"))]
    opcodes = [line.split()[0] for line in code]
    return {
        "registers": meta("vgpr_count"),
        "agprs": meta("agpr_count"),
        "sgprs": meta("sgpr_count"),
        "spills": meta("vgpr_spill_count"),
        "sgpr_spills": meta("sgpr_spill_count"),
        "stack": meta("private_segment_fixed_size"),
        "tensor_core": dict(sorted(Counter(
            m[0] for op in opcodes if (m := _GCN_TENSOR_CORE.match(op))).items())),
        "memory": dict(sorted(Counter(
            m[1] for op in opcodes if (m := _GCN_MEMORY.match(op))).items())),
        "f64": sum(bool(_GCN_F64.match(op)) for op in opcodes),
        "instructions": len(opcodes),
        "code": hashlib.sha256("\n".join(code).encode()).hexdigest()[:16],
    }


def _cuobjdump(cubin: bytes) -> str:
    """Resource usage and machine code, by the tool that Triton's wheel ships."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([knobs.nvidia.cuobjdump.path, "-res-usage", "-sass", file.name],
                              check=True, capture_output=True, text=True).stdout


def facts_of(compiled: Any, launch: Any) -> Facts:
    """Everything the ledger holds about one compiled launch."""
    if "cubin" in compiled.asm:
        dump = _cuobjdump(compiled.asm["cubin"])
        usage = {k: int(v) for k, v in re.findall(r"\b(REG|STACK):(\d+)", dump)}
        facts = {"registers": usage["REG"], "stack": usage["STACK"], **sass_facts(dump)}
    else:
        facts = gcn_facts(compiled.asm["amdgcn"])
    options = {k: v for k, v in launch.options.items() if isinstance(v, (bool, int, str))}
    return {"num_warps": compiled.metadata.num_warps, "shared": compiled.metadata.shared,
            **facts, "config": dict(sorted(options.items()))}


def compile_case(entry: Entry, case: str, target_name: str) -> Entries:
    """Record and compile one case for one target.

    A kernel that a case launches in several specialisations gets one entry each, ``name#2`` …
    """
    target = TARGETS[target_name]
    entries: Entries = {}
    seen: set[tuple[str, str]] = set()
    for launch in record(entry, case, target):
        compiled = compile_launch(launch, target)
        name = launch.kernel.__name__
        if (name, compiled.hash) in seen:
            continue
        seen.add((name, compiled.hash))
        nth = sum(other == name for other, _ in seen)
        key = f"{case}/{name}" + (f"#{nth}" if nth > 1 else "")
        entries[key] = facts_of(compiled, launch)
    return entries


# --- files and the gate ------------------------------------------------------------------------

def load(operator: str, folder: Path | None = None) -> dict[str, Any]:
    """The recorded ledger of an operator: ``{"triton": version, "targets": {name: entries}}``."""
    path = (folder or FOLDER) / f"{operator}.json"
    return json.loads(path.read_text()) if path.exists() else {"triton": None, "targets": {}}


def save(operator: str, targets: dict[str, Entries], triton_version: str,
         folder: Path | None = None) -> None:
    """Write an operator's ledger, one line per entry."""
    blocks = []
    for target in (name for name in TARGETS if name in targets):
        lines = [f"      {json.dumps(key)}: {json.dumps(facts)}"
                 for key, facts in sorted(targets[target].items())]
        blocks.append(f"    {json.dumps(target)}: {{\n" + ",\n".join(lines) + "\n    }")
    folder = folder or FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{operator}.json").write_text(
        f'{{\n  "operator": {json.dumps(operator)},\n  "triton": {json.dumps(triton_version)},\n'
        '  "targets": {\n' + ",\n".join(blocks) + "\n  }\n}\n")


def faults(entry: Entry, case: str, target_name: str, now: Entries,
           recorded: dict[str, Any], triton_version: str) -> list[str]:
    """What the gate objects to in a freshly compiled case, one sentence each.

    A binary of another Triton version is held to the absolute rules alone.
    """
    allowed = entry.exceptions
    before: Entries = {key: facts for key, facts in
                       recorded["targets"].get(target_name, {}).items()
                       if key.startswith(f"{case}/")}
    same = recorded["triton"] in (None, triton_version)
    found = []
    if not now:
        found.append(f"{case} on {target_name} launches no kernel")
    if same:
        hint = "run `make ledger` and read the difference"
        found += [f"{key} on {target_name} is not in the ledger; {hint}"
                  for key in now if key not in before]
        found += [f"{key} on {target_name} is in the ledger and no longer launched; {hint}"
                  for key in before if key not in now]
    for key, facts in now.items():
        kernel = key.rpartition("/")[2].partition("#")[0]
        where, old = f"{key} on {target_name}", before.get(key) if same else None
        limit = TARGETS[target_name].shared
        if facts["shared"] > limit:
            found.append(f"{where} needs {facts['shared']} bytes of shared memory, "
                         f"the card has {limit}")
        if facts["f64"] and (kernel, "f64") not in allowed:
            found.append(f"{where} has {facts['f64']} float64 instructions")
        granted = old["spills"] if old and (kernel, "spills") in allowed else 0
        undeclared = (kernel, "spills") not in allowed
        if facts["spills"] > granted and (undeclared or old):
            found.append(f"{where} spills: {facts['spills']} registers' loads and stores, "
                         f"{granted} granted")
        if old and old["tensor_core"] and not facts["tensor_core"]:
            found.append(f"{where} lost its tensor-core path ({', '.join(old['tensor_core'])})")
    return found


def changes(before: Entries, now: Entries) -> list[str]:
    """Every fact that differs, for people: one line a kernel, numbers with their change."""
    def flat(facts: Facts) -> Facts:
        return {f"{fact}.{name}" if name else fact: value for fact, values in facts.items()
                for name, value in (values.items() if isinstance(values, dict)
                                    else [("", values)])}

    def moved(fact: str, old: Any, new: Any) -> str:
        if fact == "code":  # a hash says no more
            return "code"
        numbers = all(isinstance(x, int) and not isinstance(x, bool) for x in (old, new))
        return f"{fact} {old} -> {new}" + (f" ({new / old - 1:+.0%})" if numbers and old else "")

    lines = []
    for key in sorted(before.keys() | now.keys()):
        if key not in now or key not in before:
            lines.append(f"{key}: {'gone' if key in before else 'new'}")
            continue
        old, new = flat(before[key]), flat(now[key])
        facts = [moved(fact, old.get(fact, 0), new.get(fact, 0)) for fact in {**old, **new}
                 if old.get(fact, 0) != new.get(fact, 0)]
        if facts:
            lines.append(f"{key}: " + ", ".join(facts))
    return lines


def print_diff(other: Path, operators: Iterable[str], targets: Iterable[str]) -> int:
    """Print how the ledger in another folder differs from the recorded one; 1 where it does."""
    targets, lines = list(targets), []
    for operator in operators:
        mine, theirs = load(operator), load(operator, other)
        for target in targets:
            lines += [f"{operator} {target} {line}" for line in changes(
                mine["targets"].get(target, {}), theirs["targets"].get(target, {}))]
        if mine["triton"] != theirs["triton"]:
            lines.append(f"{operator}: triton {mine['triton']} -> {theirs['triton']}")
    print(*lines, f"{len(lines)} differences", sep="\n")
    return 1 if lines else 0


def jobs_of(operators: Iterable[str], targets: Iterable[str]) -> list[tuple[str, str, str]]:
    """Every declared (entry, case, target) of some operators."""
    operators, targets = set(operators), list(targets)
    return [(entry.name, case, target) for entry in ENTRIES.values()
            if entry.operator in operators for case in entry.ledger for target in targets]


def gated_jobs() -> list[tuple[str, str, str]]:
    """What every test run compiles: all of sm_90 and gfx942, of the others one case an entry.

    The rest is compiled by the command line alone, to keep the tests within minutes.
    """
    every = jobs_of({entry.operator for entry in ENTRIES.values()}, TARGETS)
    return [(name, case, target) for name, case, target in every
            if target in ("sm_90", "gfx942") or case == ENTRIES[name].ledger[-1]]


def operators_of(jobs: Iterable[tuple[str, str, str]]) -> list[str]:
    """The operators that jobs belong to, in the registry's order."""
    return list(dict.fromkeys(ENTRIES[name].operator for name, _, _ in jobs))


def _compile_job(job: tuple[str, str, str]) -> tuple[Entries, float]:
    """The facts of a case, and the seconds of CPU that they took; none where Triton had it."""
    torch.set_num_threads(1)
    name, case, target = job
    start = time.process_time()
    return compile_case(ENTRIES[name], case, target), time.process_time() - start


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    known = operators_of(jobs_of({e.operator for e in ENTRIES.values()}, TARGETS))
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger",
                                     description="Compile every kernel ahead of time.")
    parser.add_argument("--update", action="store_true", help="rewrite benchmarks/ledger/*.json")
    parser.add_argument("--folder", type=Path, default=FOLDER,
                        help="of the files, such as one for another Triton")
    parser.add_argument("--diff", type=Path, metavar="FOLDER",
                        help="compile nothing: print how the files in FOLDER differ from ours")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--operators", nargs="+", choices=known, default=known)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    options = parser.parse_args(argv)
    if options.diff:
        return print_diff(options.diff, options.operators, options.targets)
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        parser.error("the ledger compiles; unset TRITON_INTERPRET")
    import triton

    jobs = jobs_of(options.operators, options.targets)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(options.jobs, mp_context=spawn) as pool:
        timed = list(pool.map(_compile_job, jobs))
    results = [entries for entries, _ in timed]

    found: list[str] = []
    for operator in options.operators:
        mine = [(ENTRIES[job[0]], *job[1:], entries) for job, entries in zip(jobs, results)
                if ENTRIES[job[0]].operator == operator]
        fresh: dict[str, Entries] = {}
        for _, _, target, entries in mine:
            fresh.setdefault(target, {}).update(entries)
        recorded = load(operator, options.folder)
        for target, entries in fresh.items():
            for line in changes(recorded["targets"].get(target, {}), entries):
                print(f"{operator} {target} {line}")
        if options.update:
            kept = recorded["targets"] if recorded["triton"] == triton.__version__ else {}
            save(operator, {**kept, **fresh}, triton.__version__, options.folder)
            recorded = load(operator, options.folder)
        for entry, case, target, entries in mine:
            found += faults(entry, case, target, entries, recorded, triton.__version__)
        seconds = sum(s for job, (_, s) in zip(jobs, timed) if ENTRIES[job[0]].operator == operator)
        print(f"{operator}: {sum(len(entries) for *_, entries in mine)} entries, "
              f"{seconds:.1f} s of CPU to compile")
    for line in found:
        print(f"FAULT {line}", file=sys.stderr)
    print(f"{sum(map(len, results))} entries of {len(options.operators)} operators for "
          f"{', '.join(options.targets)}; {len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
