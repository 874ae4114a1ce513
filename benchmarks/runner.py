"""Measure the entries of :mod:`benchmarks.registry`; ``python -m benchmarks --help``.

A provider is checked before it is timed, and a wrong one gets no figure. On a GPU times come from
device events after the L2 cache was flushed, on a CPU from ``perf_counter``; the providers of one
cell take turns, so that a drift of the clocks meets them all. Providers that compile run in a
process of their own beside eager: a compiler that crashes leaves a cell that says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from .apart import Crashed, apart
from .checks import Wrong, check, check_component, check_path
from .clock import (
    Clock,
    captured,
    device_events,
    host_peak,
    interleaved,
    median_interval,
    quantiles,
)
from .entry import DTYPES, Entry, Inputs, Provider, differentiate, flatten, leaves, upcast
from .records import Row
from .registry import ENTRIES

__all__ = ["MODES", "PASSES", "Plan", "call", "measure", "measure_compiled"]

PASSES = ("fwd", "fwd+bwd")
MODES = ("call", "kernel")


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        providers: names to measure, ``None`` for all; eager always runs, as the yardstick.
        passes: of ``'fwd'`` (inference) and ``'fwd+bwd'``.
        modes: of ``'call'`` (as called from Python, launches included) and ``'kernel'`` (replay of
            a CUDA graph; GPU only).
        seconds: time to spend on one cell, all providers together.
        reps: bounds on the repetitions.
        compiler: backend of ``torch.compile``, by name or itself.
    """

    providers: Sequence[str] | None = None
    passes: Sequence[str] = PASSES
    modes: Sequence[str] = MODES
    seconds: float = 1.0
    reps: tuple[int, int] = (20, 200)
    compiler: str | Callable[..., Any] = "inductor"

    def chosen(self, entry: Entry, compiled: bool) -> list[str]:
        """The providers to measure that are, or are not, compiled."""
        return [name for name, provider in entry.providers.items()
                if provider.compiled == compiled
                and (self.providers is None or name in self.providers)]


def call(provider: Provider, inputs: Inputs, passes: str) -> Any:
    """One call of a provider on inputs that it prepared: its outputs, or its gradients."""
    with provider.context(), torch.set_grad_enabled(passes == "fwd+bwd"):
        if passes == "fwd":
            return flatten(provider.run(inputs))
        return differentiate(provider.run, inputs)


@dataclass(frozen=True)
class Yardstick:
    """What every provider is held against.

    Attributes:
        torchs: eager's tensors in the cell's data type.
        truth: eager's tensors in float64, from the same inputs.
        names: what each of them is.
    """

    torchs: list[Any]
    truth: list[Any]
    names: list[str]


class Cell:
    """One entry at one shape, one data type and one pass, with some of its providers."""

    def __init__(self, entry: Entry, shape: str, dtype: str, passes: str, device: torch.device,
                 inputs: Inputs, providers: Mapping[str, Provider], plan: Plan,
                 ceiling: Mapping[str, float] | None) -> None:
        self.entry, self.dtype, self.passes, self.plan = entry, DTYPES[dtype], passes, plan
        self.clock = Clock(device)
        self.inputs, self.providers = inputs, providers
        self.views = {"eager": providers["eager"].prepare(inputs)}
        self.blank = Row(entry.name, entry.kind, shape, dtype, "", passes, "")
        if ceiling and entry.work and dtype in ceiling:
            work = entry.work(dtype=self.dtype, backward=passes == "fwd+bwd", **entry.sizes(shape))
            self.blank.floor_us = 1e6 * max(work.bytes / ceiling["bytes"],
                                            work.flops / ceiling[dtype])

    def run(self) -> list[Row]:
        """Check every provider, time those that passed."""
        yardstick = self.yardstick()
        rows = [self.admitted(name, yardstick) for name in self.providers]
        del yardstick  # its memory is not part of what is measured
        good = {row.provider: row for row in rows if row.status == "ok"}
        bad = [row for row in rows if row.status != "ok"]
        modes = self.plan.modes if self.clock.gpu else [m for m in self.plan.modes if m == "call"]
        return [row for mode in modes for row in (
            *self.timed(good, mode), *(replace(row, mode=mode) for row in bad))]

    def yardstick(self) -> Yardstick:
        """Eager in the cell's data type and in float64; in that order, as the first draws the
        cotangents."""
        eager = self.providers["eager"]
        torchs = call(eager, self.views["eager"], self.passes)
        truth = call(eager, eager.prepare(upcast(self.inputs)), self.passes)
        names = [f"output {i}" for i in range(len(torchs))]
        if self.passes == "fwd+bwd":
            names = list(leaves(self.inputs))
        return Yardstick(torchs, truth, names)

    def admitted(self, name: str, yardstick: Yardstick) -> Row:
        """A provider's row after its first call: what was checked and seen, or what is wrong."""
        row = replace(self.blank, provider=name, backend="torch")
        try:
            if name not in self.views:
                self.views[name] = self.providers[name].prepare(self.inputs)
            row.first_call_ms, got = self.first_call(name)
            self.checked(name, got, yardstick)
            del got
            if self.clock.gpu:
                self.watched(name, row)
            else:
                row.peak_bytes = host_peak(partial(call, self.providers[name], self.views[name],
                                                   self.passes))
        except Wrong as error:
            return replace(self.blank, provider=name, floor_us=None, status="wrong",
                           note=str(error))
        except Exception as error:  # a peer that cannot run here leaves an empty cell
            note = f"{type(error).__name__}: {error}".splitlines()[0]
            return replace(self.blank, provider=name, floor_us=None, status="error", note=note)
        return row

    def first_call(self, name: str) -> tuple[float, list[Any]]:
        """Milliseconds of the first call, which may compile, and what it gave."""
        self.clock.sync()
        start = time.perf_counter()
        got = call(self.providers[name], self.views[name], self.passes)
        self.clock.sync()
        return (time.perf_counter() - start) * 1e3, got

    def checked(self, name: str, got: list[Any], to: Yardstick) -> None:
        """Hold a result against the yardstick; what has many tensors pools them."""
        if self.entry.kind == "operator":
            exact = self.entry.exact and name == "fastdet"
            check(exact, self.dtype, got, to.torchs, to.truth, to.names)
        else:
            check_component(self.dtype, got, to.torchs, to.truth)

    def watched(self, name: str, row: Row) -> None:
        """Peak memory and launches of one warm call, and which kernels they were."""
        again = partial(call, self.providers[name], self.views[name], self.passes)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        again()
        torch.cuda.synchronize()
        row.peak_bytes = torch.cuda.max_memory_allocated() - before
        events = device_events(again)
        if not events:
            row.note = "the profiler saw no launch: the path is not checked"
            return
        row.launches = len(events)
        if self.entry.kernels:
            check_path(self.entry, name, events)
            row.backend = "triton" if name == "fastdet" else "torch"

    def timed(self, good: Mapping[str, Row], mode: str) -> list[Row]:
        """Rows with times, and rows that say why there is none in this mode."""
        calls, rows = {}, []
        for name, row in good.items():
            calls[name] = partial(call, self.providers[name], self.views[name], self.passes)
            if mode == "kernel":
                try:
                    calls[name] = self.captured(name, calls[name])
                except Exception as error:
                    self.clock.sync()
                    del calls[name]
                    note = f"not captured: {error}".splitlines()[0]
                    rows.append(replace(row, mode=mode, floor_us=None, note=note))
        times = interleaved(calls, self.clock, mode, self.plan.seconds, self.plan.reps) \
            if calls else {}
        return rows + [self.filled(replace(good[name], mode=mode), taken, times.get("eager"))
                       for name, taken in times.items()]

    def captured(self, name: str, fn: Callable[[], Any]) -> Any:
        """A CUDA graph's replay of a call."""
        if not self.providers[name].capturable:
            raise RuntimeError("a CUDA graph cannot hold it")
        return captured(fn)

    @staticmethod
    def filled(row: Row, times: Sequence[float], eager: Sequence[float] | None) -> Row:
        """A row with its times, and eager's time over it, round by round."""
        row.reps = len(times)
        row.p20_us, row.p50_us, row.p80_us = quantiles(times)
        if eager:
            row.speedup_low, row.speedup, row.speedup_high = median_interval(
                [theirs / mine for theirs, mine in zip(eager, times)])
        if row.floor_us is not None:
            row.share_of_floor = row.floor_us / row.p50_us
        return row


def _cells(entry: Entry, shape: str, dtype: str, device: torch.device, plan: Plan,
           names: Sequence[str], ceiling: Mapping[str, float] | None) -> list[Row]:
    """Rows of eager and the named providers, at every pass."""
    torch.manual_seed(0)
    inputs = entry.make(dtype=DTYPES[dtype], device=device, **entry.sizes(shape))
    inputs["cotangents"] = []  # filled by the first backward pass, for all
    providers = {"eager": entry.providers["eager"]}
    for name in names:
        provider = entry.providers[name]
        if provider.compiled:
            torch.compiler.reset()
            provider = replace(provider, run=torch.compile(
                provider.run, backend=plan.compiler, dynamic=False))
        providers[name] = provider
    passes = plan.passes if entry.trains else [p for p in plan.passes if p == "fwd"]
    return [row for each in passes for row in Cell(
        entry, shape, dtype, each, device, inputs, providers, plan, ceiling).run()]


def measure(entry: Entry, shape: str, dtype: str, device: torch.device, plan: Plan,
            ceiling: Mapping[str, float] | None = None) -> list[Row]:
    """Check and time every provider of an entry that needs no compiler, in this process.

    Args:
        shape: a name of ``entry.shapes`` or ``entry.cpu``, or ``'tiny'``.
        dtype: a name of :data:`~benchmarks.entry.DTYPES`.
        ceiling: what :func:`~benchmarks.clock.ceilings` measured, for the roofline.
    """
    return _cells(entry, shape, dtype, device, plan, plan.chosen(entry, False), ceiling)


def _compiled(name: str, provider: str, shape: str, dtype: str, device: str, plan: Plan,
              ceiling: Mapping[str, float] | None, threads: int) -> list[Row]:
    torch.set_num_threads(threads)
    rows = _cells(ENTRIES[name], shape, dtype, torch.device(device), plan, [provider], ceiling)
    return [row for row in rows if row.provider == provider]


def measure_compiled(entry: Entry, shape: str, dtype: str, device: torch.device, plan: Plan,
                     ceiling: Mapping[str, float] | None = None, limit: float = 120.0
                     ) -> list[Row]:
    """As :func:`measure`, for the providers that compile: each beside eager in its own process.

    Args:
        limit: seconds that one of them may take, compilation included.

    Returns:
        Rows of the compiled providers; one that crashed has rows that say how.
    """
    rows = []
    for provider in plan.chosen(entry, True):
        try:
            rows += apart(_compiled, entry.name, provider, shape, dtype, str(device), plan, ceiling,
                          torch.get_num_threads(), limit=limit)
        except Crashed as error:
            passes = plan.passes if entry.trains else [p for p in plan.passes if p == "fwd"]
            modes = [m for m in plan.modes if m == "call" or device.type == "cuda"]
            rows += [Row(entry.name, entry.kind, shape, dtype, provider, each, mode,
                         status="error", note=str(error)) for each in passes for mode in modes]
    return rows
