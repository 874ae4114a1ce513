"""Measure the entries of :mod:`benchmarks.registry`; ``python -m benchmarks --help``.

A provider is checked before it is timed, and a wrong one gets no figure. On a GPU times come from
device events after the L2 cache was flushed, on a CPU from ``perf_counter``; the providers of one
cell take turns, so that a drift of the clocks meets them all.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fastdet.testing import assert_accurate

from . import records
from .entry import (
    DTYPES,
    Entry,
    Inputs,
    Provider,
    differentiate,
    flatten,
    leaves,
    upcast,
)
from .records import Row
from .registry import ENTRIES

__all__ = ["Plan", "Wrong", "call", "main", "measure"]

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


class Clock:
    """Times one call in microseconds."""

    def __init__(self, device: torch.device) -> None:
        self.gpu = device.type == "cuda"
        if self.gpu:
            cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
            self.flush = torch.empty(max(2 * cache, 2**28), dtype=torch.int8, device=device)
            self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def sync(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()

    def __call__(self, fn: Callable[[], Any], mode: str) -> float:
        if not self.gpu:
            start = time.perf_counter()
            fn()
            return (time.perf_counter() - start) * 1e6
        self.flush.zero_()
        if mode == "call":
            # The GPU waits for Python, so that the launches are in the figure; a graph's launch
            # hides behind the flush instead.
            torch.cuda.synchronize()
        self.start.record()
        fn()
        self.end.record()
        self.end.synchronize()
        return self.start.elapsed_time(self.end) * 1e3


def ceilings(device: torch.device) -> dict[str, float]:
    """What this GPU reaches: bytes per second of a copy, operations per second of a product."""
    def best(fn: Callable[[], Any]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        times = []
        for _ in range(10):
            start.record()
            fn()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        return statistics.median(times[3:])

    def copy_rate(size: int) -> float:
        source = torch.randint(255, (size,), dtype=torch.uint8, device=device)
        sink = torch.empty_like(source)
        return 2 * size / best(lambda: sink.copy_(source))

    reached = {"bytes": copy_rate(2**31)}
    for name, dtype in DTYPES.items():
        n = 4096 if dtype == torch.float32 else 8192
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        reached[name] = 2 * n**3 / best(lambda a=a, b=b: a @ b)
    return reached


def device_events(fn: Callable[[], Any]) -> list[str]:
    """Names of all kernels, copies and fills that a call puts on the GPU."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        fn()
        torch.cuda.synchronize()
    return [event.name for event in trace.events() if event.device_type == DeviceType.CUDA
            and not getattr(event, "is_user_annotation", False)]


class Wrong(Exception):
    """A provider whose result is not the entry's, or that took another path than it names."""


def call(provider: Provider, inputs: Inputs, passes: str) -> Any:
    """One call of a provider on inputs that it prepared: its outputs, or its gradients."""
    with provider.context(), torch.set_grad_enabled(passes == "fwd+bwd"):
        if passes == "fwd":
            return flatten(provider.run(inputs))
        return differentiate(provider.run, inputs)


def check(exact: bool, dtype: torch.dtype, got: list[Any], torchs: list[Any], truth: list[Any],
          names: Sequence[str]) -> None:
    """Hold a provider's tensors against eager's and the float64 truth.

    ``exact`` asks for eager's very bits, as do integers and flags.

    Raises:
        Wrong: with the first tensor that is off and by how much.
    """
    if len(got) != len(torchs):
        raise Wrong(f"{len(got)} tensors, eager gives {len(torchs)}")
    for name, mine, eager, true in zip(names, got, torchs, truth):
        if (mine is None) != (eager is None):
            raise Wrong(f"{name}: a gradient is missing")
        if mine is None:
            continue
        if exact or not eager.is_floating_point():
            if mine.shape != eager.shape or not torch.equal(mine.cpu(), eager.cpu()):
                raise Wrong(f"{name}: differs from eager, which it must equal bit for bit")
            continue
        try:
            assert_accurate(name, mine, eager, true, dtype)
        except AssertionError as error:
            raise Wrong(str(error)) from None


def check_component(dtype: torch.dtype, got: list[Any], torchs: list[Any],
                    truth: list[Any]) -> None:
    """As :func:`check`, with all tensors pooled.

    Raises:
        Wrong: a tensor is missing, of another shape, or the pool is off.
    """
    shapes = [[None if t is None else t.shape for t in tensors] for tensors in (got, torchs)]
    if shapes[0] != shapes[1]:
        raise Wrong(f"shapes {shapes[0]}, eager gives {shapes[1]}")
    check(False, dtype, *(pooled(t, truth) for t in (got, torchs, truth)), ["all tensors"])


def pooled(tensors: list[Any], truth: list[Any]) -> list[torch.Tensor]:
    """Many tensors as one, each in units of its truth's RMS.

    Low precision makes a component's hundreds of small gradients so many draws of chance; whether
    one of them is twice as far off as eager's says nothing, whether all are says something.
    """
    return [torch.cat([(tensor.double() / true.square().mean().sqrt().clamp_min(1e-30)).flatten()
                       for tensor, true in zip(tensors, truth) if true is not None])]


def check_path(entry: Entry, name: str, events: Sequence[str]) -> None:
    """fastdet must have launched its kernels, and nobody else may have."""
    ours = any(event.startswith(tuple(entry.kernels)) for event in events)
    if name == "fastdet" and not ours:
        raise Wrong(f"no kernel {'|'.join(entry.kernels)}* was launched")
    if name != "fastdet" and ours:
        raise Wrong("ran fastdet's kernels")


def _graph(fn: Callable[[], Any]) -> Callable[[], Any]:
    """Capture a call in a CUDA graph; returns its replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            fn()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = fn()

    def replay() -> Any:
        graph.replay()
        return kept
    return replay


def _quantiles(times: Sequence[float]) -> tuple[float, float, float]:
    ordered = sorted(times)

    def at(q: float) -> float:
        return ordered[min(len(ordered) - 1, math.floor(q * len(ordered)))]
    return at(0.2), statistics.median(ordered), at(0.8)


def _times(calls: dict[str, Callable[[], Any]], clock: Clock, mode: str, plan: Plan,
           ) -> dict[str, list[float]]:
    """Interleaved times of every call; each round starts with another one."""
    once = sum(sorted(clock(fn, mode) for _ in range(3))[1] for fn in calls.values())
    reps = int(min(max(plan.seconds * 1e6 / max(once, 1.0), plan.reps[0]), plan.reps[1]))
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for rep in range(reps):
        turn = rep % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(clock(calls[name], mode))
    return times


def measure(entry: Entry, shape: str, dtype: str, device: torch.device, plan: Plan,
            ceiling: dict[str, float] | None = None) -> list[Row]:
    """Check and time every provider of an entry at one shape and data type.

    Args:
        shape: a name of ``entry.shapes``, or ``'tiny'``.
        dtype: a name of :data:`~benchmarks.registry.DTYPES`.
        ceiling: what :func:`ceilings` measured, for the roofline.
    """
    sizes = entry.sizes(shape)
    wanted = plan.providers or list(entry.providers)
    providers = {name: p for name, p in entry.providers.items()
                 if name in wanted or name == "eager"}
    torch.manual_seed(0)
    inputs = entry.make(dtype=DTYPES[dtype], device=device, **sizes)
    inputs["cotangents"] = []  # filled by the first backward pass, for all
    for name, provider in providers.items():
        if provider.compiled:
            torch.compiler.reset()
            providers[name] = replace(provider, run=torch.compile(
                provider.run, backend=plan.compiler, dynamic=False))
    clock = Clock(device)
    rows = []
    for passes in plan.passes if entry.trains else plan.passes[:1]:
        rows += _measure_pass(entry, shape, dtype, sizes, inputs, providers, passes, clock, plan,
                              ceiling)
    return rows


def _measure_pass(entry: Entry, shape: str, dtype: str, sizes: Any, inputs: dict[str, Any],
                  providers: dict[str, Provider], passes: str, clock: Clock, plan: Plan,
                  ceiling: dict[str, float] | None) -> list[Row]:
    blank = Row(entry.name, entry.kind, shape, dtype, "", passes, "")
    if ceiling and entry.work:
        backward = passes == "fwd+bwd"
        work = entry.work(dtype=DTYPES[dtype], backward=backward, **sizes)
        blank.floor_us = 1e6 * max(work.bytes / ceiling["bytes"], work.flops / ceiling[dtype])

    eager = providers["eager"]
    torchs = call(eager, eager.prepare(inputs), passes)
    truth = call(eager, eager.prepare(upcast(inputs)), passes)
    views = {name: provider.prepare(inputs) for name, provider in providers.items()}
    names = list(leaves(inputs)) if passes == "fwd+bwd" else [
        f"output {i}" for i in range(len(torchs))]

    good: dict[str, Row] = {}
    bad: list[Row] = []
    for name, provider in providers.items():
        row = replace(blank, provider=name, backend="torch")
        try:
            clock.sync()
            start = time.perf_counter()
            got = call(provider, views[name], passes)
            clock.sync()
            row.first_call_ms = (time.perf_counter() - start) * 1e3
            if entry.kind == "component":
                check_component(DTYPES[dtype], got, torchs, truth)
            else:
                exact = entry.exact and name == "fastdet"
                check(exact, DTYPES[dtype], got, torchs, truth, names)
            del got
            if clock.gpu:
                _watch(entry, name, provider, views[name], passes, row)
            good[name] = row
        except Wrong as error:
            bad.append(replace(blank, provider=name, floor_us=None, status="wrong",
                               note=str(error)))
        except Exception as error:  # a peer that cannot run here leaves an empty cell
            note = f"{type(error).__name__}: {error}".splitlines()[0]
            bad.append(replace(blank, provider=name, floor_us=None, status="error", note=note))
    del torchs, truth

    rows = []
    for mode in plan.modes if clock.gpu else [m for m in plan.modes if m == "call"]:
        calls: dict[str, Callable[[], Any]] = {}
        for name in good:
            provider = providers[name]
            calls[name] = partial(call, provider, views[name], passes)
            if mode == "kernel":
                try:
                    if not provider.capturable:
                        raise RuntimeError("a CUDA graph cannot hold it")
                    calls[name] = _graph(calls[name])
                except Exception as error:
                    clock.sync()
                    del calls[name]
                    note = f"not captured: {error}".splitlines()[0]
                    rows.append(replace(good[name], mode=mode, floor_us=None, note=note))
        times = _times(calls, clock, mode, plan) if calls else {}
        for name, taken in times.items():
            row = replace(good[name], mode=mode, reps=len(taken))
            row.p20_us, row.p50_us, row.p80_us = _quantiles(taken)
            if row.floor_us is not None:
                row.share_of_floor = row.floor_us / row.p50_us
            rows.append(row)
        rows += [replace(row, mode=mode) for row in bad]
    return rows


def _watch(entry: Entry, name: str, provider: Provider, inputs: dict[str, Any], passes: str,
           row: Row) -> None:
    """Peak memory and launches of one warm call, and which kernels they were."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call(provider, inputs, passes)
    torch.cuda.synchronize()
    row.peak_bytes = torch.cuda.max_memory_allocated() - before
    events = device_events(lambda: call(provider, inputs, passes))
    if not events:
        row.note = "the profiler saw no launch: the path is not checked"
        return
    row.launches = len(events)
    if entry.kernels:
        check_path(entry, name, events)
        row.backend = "triton" if name == "fastdet" else "torch"


def _select(names: Sequence[str], known: Iterable[str], what: str) -> list[str]:
    known = list(known)
    for name in names:
        if name not in known:
            raise SystemExit(f"unknown {what} {name!r}, expected one of {', '.join(known)}")
    return list(names) or known


def main(argv: Sequence[str] | None = None) -> int:
    """Command line. Returns 1 when fastdet was wrong; a peer that is wrong has no figure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"entries: {', '.join(ENTRIES)}")
    parser.add_argument("--shapes", nargs="+", default=[],
                        help="named shapes, or tiny; by default all on a GPU and tiny on a CPU")
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--providers", nargs="+")
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=PASSES)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--seconds", type=float, default=1.0, help="time for one cell")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/new"))
    options = parser.parse_args(argv)

    device = torch.device(options.device)
    plan = Plan(options.providers, options.passes, options.modes, options.seconds)
    where = records.conditions(device)
    ceiling = ceilings(device) if device.type == "cuda" else None
    if ceiling:
        print("ceilings: " + ", ".join(
            f"{k} {v / 1e12:.2f} {'TB/s' if k == 'bytes' else 'TFLOP/s'}"
            for k, v in ceiling.items()), flush=True)
    rows: list[Row] = []
    for name in _select(options.names, ENTRIES, "entry"):
        entry = ENTRIES[name]
        usual = list(entry.shapes) if device.type == "cuda" else ["tiny"]
        shapes = [s for s in options.shapes or usual if s == "tiny" or s in entry.shapes]
        for dtype in (d for d in entry.dtypes if d in options.dtypes):
            for shape in shapes:
                start = time.perf_counter()
                new = measure(entry, shape, dtype, device, plan, ceiling)
                rows += [replace(row, **{k: where[k] for k in ("torch", "triton", "device")})
                         for row in new]
                # Saved after every cell: a run cut short keeps what it measured.
                records.save(rows, options.out, where, {"ceilings": ceiling})
                print(f"{name} {dtype} {shape}: {time.perf_counter() - start:.1f} s", flush=True)
                if device.type == "cuda":
                    torch.cuda.empty_cache()
    print(records.table(rows))
    red = [row for row in rows if row.status != "ok"]
    if red:
        print(f"{len(red)} cells are red and have no figure", file=sys.stderr)
    return 1 if any(row.provider == "fastdet" for row in red) else 0
