"""The ledger: what every kernel compiles to, held without a GPU.

Each declared case (the ``ledger`` field of :mod:`benchmarks.registry`) calls the public operator
while launches are recorded instead of performed, so the kernels, configs and argument
specialisations are the shipped ones. Every distinct launch is compiled ahead of time for each
target with Triton's own binder and compiler, and the facts of the binary are kept in
``benchmarks/ledger/<operator>.json``.

    python -m benchmarks.ledger              compare, print what changed, fail as the gate does
    python -m benchmarks.ledger --update     rewrite the files
    python -m benchmarks.ledger --targets sm_90 --operators grid_priors
    python -m benchmarks.ledger --update --time --folder out/3.6     under another Triton
    python -m benchmarks.ledger --diff out/3.6 out/3.8               a column for each
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
    """Resource usage and machine code, by the tool that every Triton's wheel ships."""
    from triton.backends import nvidia

    tool = os.environ.get("TRITON_CUOBJDUMP_PATH") or \
        str(Path(nvidia.__path__[0], "bin", "cuobjdump"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, "-res-usage", "-sass", file.name],
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


def compile_job(job: tuple[str, str, str]) -> tuple[Entries, float, str]:
    """The facts of a case, the seconds of CPU that they took, and why there are none."""
    torch.set_num_threads(1)
    name, case, target = job
    start, entries, why = time.process_time(), Entries(), ""
    try:
        entries = compile_case(ENTRIES[name], case, target)
    except Exception as error:  # whatever a compiler throws is the answer
        reason = str(error).strip().splitlines() or [""]
        why = f"{case} on {target} does not compile: {type(error).__name__}: {reason[-1]}"
    return entries, time.process_time() - start, why


def _parser(known: list[str], prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Compile every kernel ahead of time, without a GPU, and hold "
        "what comes out against what is recorded: registers, spills, shared memory, matrix "
        "instructions, accesses. Fails on a new spill, a float64 instruction, shared memory "
        "over the card's limit, a lost matrix path, or a kernel that does not compile.")
    parser.add_argument("--update", action="store_true", help="write the files anew")
    parser.add_argument("--folder", type=Path, default=FOLDER, metavar="FOLDER",
                        help="of the files, such as one for another Triton (default: what is "
                        "recorded)")
    parser.add_argument("--diff", type=Path, nargs="+", metavar="FOLDER",
                        help="compile nothing: print how the files in these folders differ from "
                        "what is recorded, a column each; 1 where a kernel is worse")
    parser.add_argument("--time", action="store_true",
                        help="compile in an empty cache, so that the time is the compiler's")
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--operators", nargs="+", choices=known, default=known)
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="N",
                        help="processes (default: %(default)s)")
    return parser


def _compile(jobs: list[tuple[str, str, str]], processes: int, anew: bool
             ) -> list[tuple[Entries, float, str]]:
    spawn = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as cache, \
            mock.patch.dict(os.environ, {"TRITON_CACHE_DIR": cache} if anew else {}), \
            ProcessPoolExecutor(processes, mp_context=spawn) as pool:
        return list(pool.map(compile_job, jobs))


def main(argv: list[str] | None = None, prog: str = "python -m benchmarks.ledger") -> int:
    """Command line; see the module's docstring."""
    known = operators_of(jobs_of({e.operator for e in ENTRIES.values()}, TARGETS))
    parser = _parser(known, prog)
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
    results = _compile(jobs, options.jobs, options.time)

    found: list[str] = []
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
                for line in changes(recorded["targets"].get(target, {}), entries):
                    print(f"{operator} {target} {line}")
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
    for line in found:
        print(f"FAULT {line}", file=sys.stderr)
    print(f"triton {triton.__version__}: {sum(len(entries) for entries, _, _ in results)} entries "
          f"of {len(options.operators)} operators for {', '.join(targets)}; {len(found)} faults")
    return 1 if found or not jobs else 0


if __name__ == "__main__":
    sys.exit(main())
