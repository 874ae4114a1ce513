"""From a call to its launches, from a launch to a binary, from a binary to facts.

The public operator is called while launches are recorded instead of performed, so that kernels,
configs and argument specialisations are the shipped ones; each launch is compiled ahead of time by
Triton's own binder and compiler; its facts are read off the machine code.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from .entry import Entry, differentiate
from .targets import Driver, Target

__all__ = ["Entries", "Facts", "compile_launch", "distinct", "facts_of", "gcn_facts", "record",
           "recording", "sass_facts"]

Facts = dict[str, Any]
#: ``{"<case>/<kernel>": facts}`` of one operator on one target.
Entries = dict[str, Facts]


# --- from a call to its launches ---------------------------------------------------------------

@contextmanager
def recording(target: Target) -> Iterator[list[Any]]:
    """Record every launch inside as ``target`` would get it, whatever devices this machine has."""
    import fastdet
    from fastdet.kernels import dispatch, launch

    anywhere = mock.patch.object(dispatch, "device_reason", return_value=None)
    with (fastdet.backend("triton"), anywhere,
          launch.record_launches(target.capability, target.multiprocessors) as launches):
        yield launches


def record(entry: Entry, case: str, target: Target) -> list[Any]:
    """The launches of one declared case, forward and backward, on memory nobody reads."""
    shape, dtype, mode = entry.case(case)
    with recording(target) as launches, mode():
        inputs = entry.make(dtype=dtype, device=torch.device("cpu"), **shape)
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


@contextmanager
def _stopping(driver: Driver, until: str) -> Iterator[None]:
    """Compile as far as the stage ``until``, which Triton's cache is to tell from the whole."""
    from triton.compiler import make_backend

    backend = type(make_backend(driver.get_current_target()))
    add_stages, named = backend.add_stages, backend.hash

    def nothing(_module: Any, metadata: dict[str, Any]) -> bytes:
        metadata.setdefault("name", "")
        return b""

    def fewer(self: Any, stages: dict[str, Any], *args: Any) -> None:
        add_stages(self, stages, *args)
        names = list(stages)
        stages.update(dict.fromkeys(names[names.index(until) + 1:], nothing))

    with (mock.patch.object(backend, "add_stages", fewer),
          mock.patch.object(backend, "hash", lambda self: f"{named(self)}-{until}")):
        yield


def compile_launch(launch: Any, target: Target, until: str = "") -> Any:
    """Compile one recorded launch for ``target`` as Triton's JIT would on that GPU.

    By ``warmup``, which every Triton from 3.3 has, in front of a driver that stands for the GPU.

    Args:
        launch: what :func:`record` returns.
        target: the GPU.
        until: the last stage, ``'llir'`` or ``'ptx'``; the whole, where it is empty.
    """
    from triton.runtime import driver

    args = [_Pointer(a) if isinstance(a, torch.Tensor) else a for a in launch.args]
    stand_in = Driver(target, until)
    driver.set_active(stand_in)
    try:
        with (mock.patch.dict(os.environ, TRITON_DISABLE_LINE_INFO="1"),
              _stopping(stand_in, until) if until else nullcontext()):
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


def _ptx(compiled: Any, launch: Any) -> str:
    """A hash of all that decides what ptxas makes of a kernel, of one version of Triton's."""
    text = compiled.asm["ptx"] + repr(sorted(launch.options.items()))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _described(compiled: Any, launch: Any, facts: Facts) -> Facts:
    """Facts of the machine code between what is known without it."""
    options = {k: v for k, v in launch.options.items() if isinstance(v, (bool, int, str))}
    return {"num_warps": compiled.metadata.num_warps, "shared": compiled.metadata.shared, **facts,
            "grid": math.prod(launch.grid), "config": dict(sorted(options.items()))}


def facts_of(compiled: Any, launch: Any) -> Facts:
    """Everything the ledger holds about one launch that was compiled whole."""
    if "cubin" in compiled.asm:
        dump = _cuobjdump(compiled.asm["cubin"])
        usage = {k: int(v) for k, v in re.findall(r"\b(REG|STACK):(\d+)", dump)}
        facts = {"registers": usage["REG"], "stack": usage["STACK"], **sass_facts(dump),
                 "ptx": _ptx(compiled, launch)}
    else:
        facts = gcn_facts(compiled.asm["amdgcn"])
    return _described(compiled, launch, facts)


def distinct(launches: Iterable[Any], target: Target, known: Entries | None = None
             ) -> Iterator[tuple[str, Facts]]:
    """Compile launches: the name and the facts of every kernel, once for each of its forms.

    Args:
        launches: what :func:`record` returns.
        target: the GPU.
        known: facts, by this version of Triton, that kernels of unchanged PTX may be given: most
            of the time goes into ptxas and into reading what it made.
    """
    by_ptx = {facts["ptx"]: facts for facts in (known or {}).values() if "ptx" in facts}
    until = ("ptx" if by_ptx and target.backend == "cuda" else "") if target.whole else "llir"
    found: dict[tuple[str, str], Facts] = {}
    for launch in launches:
        compiled = compile_launch(launch, target, until)
        form = launch.kernel.__name__, compiled.hash
        if form in found:  # of several grids the largest
            found[form]["grid"] = max(found[form]["grid"], math.prod(launch.grid))
        elif not target.whole:
            found[form] = _described(compiled, launch, {})
        elif until and (same := by_ptx.get(_ptx(compiled, launch))):
            found[form] = {**same, **_described(compiled, launch, {})}
        else:
            whole = compile_launch(launch, target) if until else compiled
            found[form] = facts_of(whole, launch)
    for (kernel, _), facts in found.items():
        yield kernel, facts
