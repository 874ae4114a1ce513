"""Does every operator compute what it should here? ``fastdet verify``.

Every operator of the table runs over its shapes and data types, forward and backward. Its tensors
are held against MMDetection's algorithm in float64 by the one tolerance table, integers and exact
operators bit for bit; a second run must give the same bits, and nothing may be written beside a
result. On a GPU the kernels run, on a CPU the
CPU's own path, or with ``interpret`` the kernels under Triton's interpreter.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import fastdet
from fastdet.testing import share
from fastdet.testing.memory import guarded

from .entry import DTYPES, Entry, leaves, upcast
from .registry import ENTRIES
from .runner import PASSES, call

__all__ = ["Case", "Finding", "cases", "verify", "verify_case"]


@dataclass(frozen=True)
class Case:
    """One operator at one shape, data type and pass."""

    entry: Entry
    shape: str
    dtype: str
    passes: str


@dataclass(frozen=True)
class Finding:
    """What came of a case.

    Attributes:
        case: what ran.
        share: worst error as a share of the granted one; zero for what is equal bit for bit.
        where: the tensor that has it.
        deterministic: whether a second run gave the same bits.
        error: why nothing was computed, else empty.
        seconds: wall time.
    """

    case: Case
    share: float
    where: str
    deterministic: bool
    error: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Within the tolerance, and the same twice."""
        return not self.error and self.share <= 1 and self.deterministic


def cases(names: Sequence[str], dtypes: Sequence[str], device: torch.device, interpret: bool
          ) -> list[Case]:
    """The grid: tiny shapes of all operators first, then the real ones that the device can do."""
    def shapes(entry: Entry) -> list[str]:
        if interpret:
            return []
        return list(entry.shapes if device.type == "cuda" else entry.cpu)

    entries = [ENTRIES[name] for name in names]
    grid = [(entry, "tiny", dtype) for dtype in dtypes for entry in entries]
    grid += [(entry, shape, dtype) for dtype in dtypes for entry in entries
             for shape in shapes(entry)]
    return [Case(entry, shape, dtype, passes) for entry, shape, dtype in grid
            if dtype in entry.dtypes for passes in (PASSES if entry.trains else PASSES[:1])]


def _worst(case: Case, got: Sequence[Tensor | None], torchs: Sequence[Tensor | None],
           truth: Sequence[Tensor | None], names: Sequence[str], exact: bool
           ) -> tuple[float, str]:
    """The worst share of all tensors, and the tensor's name."""
    if len(got) != len(torchs):
        return float("inf"), f"{len(got)} tensors instead of {len(torchs)}"
    shares = [(0.0, "nothing")]
    for name, mine, eager, true in zip(names, got, torchs, truth):
        if mine is None or eager is None or true is None:
            shares.append((0.0 if mine is eager else float("inf"), f"{name} (missing)"))
        elif exact or not eager.is_floating_point():
            same = mine.shape == eager.shape and torch.equal(mine.cpu(), eager.cpu())
            shares.append((0.0 if same else float("inf"), f"{name} (bit for bit)"))
        else:
            shares.append((share(mine, eager, true, DTYPES[case.dtype]), name))
    return max(shares, key=lambda pair: pair[0])


def _same(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> bool:
    return all((a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
               for a, b in zip(first, second))


def verify_case(case: Case, device: torch.device, kernels: bool) -> Finding:
    """Run one case.

    Args:
        kernels: ask for the Triton kernels by name, so that nothing else can answer.
    """
    start = time.perf_counter()

    def finding(worst: float, where: str, deterministic: bool, error: str = "") -> Finding:
        return Finding(case, worst, where, deterministic, error, time.perf_counter() - start)

    entry, eager, ours = case.entry, case.entry.providers["eager"], case.entry.providers["fastdet"]
    try:
        torch.manual_seed(0)
        inputs: dict[str, Any] = entry.make(dtype=DTYPES[case.dtype], device=device,
                                            **entry.sizes(case.shape))
        inputs["cotangents"] = []
        with fastdet.backend("torch"):
            torchs = call(eager, eager.prepare(inputs), case.passes)
            truth = call(eager, eager.prepare(upcast(inputs)), case.passes)
        with fastdet.backend("triton") if kernels else nullcontext(), guarded() as guards:
            got, again = (call(ours, ours.prepare(inputs), case.passes) for _ in range(2))
        if beside := guards.overrun():
            return finding(float("inf"), "", False, beside)
    except Exception as error:
        return finding(float("inf"), "", False, f"{type(error).__name__}: {error}".splitlines()[0])
    names = list(leaves(inputs)) if case.passes == "fwd+bwd" else \
        [f"output {i}" for i in range(len(torchs))]
    # The interpreter's exp is NumPy's, whose last bit is another than torch's.
    exact = entry.exact and not (kernels and device.type == "cpu")
    return finding(*_worst(case, got, torchs, truth, names, exact), _same(got, again))


def verify(grid: Sequence[Case], device: torch.device, kernels: bool, seconds: float
           ) -> Iterator[Finding]:
    """Run the cases one after the other, as long as ``seconds`` last."""
    ends = time.perf_counter() + seconds
    for case in grid:
        if time.perf_counter() >= ends:
            return
        yield verify_case(case, device, kernels)


def known(what: str, given: Sequence[str], names: Mapping[str, Any]) -> list[str]:
    """The given names, or all of them.

    Raises:
        ValueError: one of them is not known.
    """
    for name in given:
        if name not in names:
            raise ValueError(f"unknown {what} {name!r}, expected one of {', '.join(names)}")
    return list(given) or list(names)
