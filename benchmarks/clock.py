"""Clocks, rooflines and what a GPU was seen to do."""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from .entry import DTYPES

__all__ = ["Clock", "captured", "ceilings", "device_events", "host_peak", "interleaved",
           "median_interval", "quantiles"]

Call = Callable[[], Any]


class Clock:
    """Times one call in microseconds: device events on a GPU, ``perf_counter`` on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.gpu = device.type == "cuda"
        if self.gpu:
            cache = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", 0)
            self.flush = torch.empty(max(2 * cache, 2**28), dtype=torch.int8, device=device)
            self.start, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def sync(self) -> None:
        """Wait for the GPU."""
        if self.gpu:
            torch.cuda.synchronize()

    def __call__(self, fn: Call, mode: str) -> float:
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


def interleaved(calls: Mapping[str, Call], clock: Clock, mode: str, seconds: float,
                bounds: tuple[int, int]) -> dict[str, list[float]]:
    """Times of every call, in rounds: each round makes every call once, another one first.

    Args:
        seconds: time to spend, all calls together.
        bounds: least and most rounds.

    Returns:
        Name to its time in each round, so that equal places were measured beside each other.
    """
    def one(fn: Call) -> float:
        first = clock(fn, mode)
        return first if first > 2e5 else sorted([first, clock(fn, mode), clock(fn, mode)])[1]

    once = sum(one(fn) for fn in calls.values())
    rounds = int(min(max(seconds * 1e6 / max(once, 1.0), bounds[0]), bounds[1]))
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for nth in range(rounds):
        turn = nth % len(names)
        for name in names[turn:] + names[:turn]:
            times[name].append(clock(calls[name], mode))
    return times


def quantiles(times: Sequence[float]) -> tuple[float, float, float]:
    """p20, median and p80."""
    ordered = sorted(times)

    def at(q: float) -> float:
        return ordered[min(len(ordered) - 1, math.floor(q * len(ordered)))]
    return at(0.2), statistics.median(ordered), at(0.8)


def median_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """A median between the ends of its 95 % confidence interval, whatever the distribution.

    The ends are order statistics: how many of n values lie below the true median is binomial.
    """
    ordered, n = sorted(values), len(values)
    reach = 0.98 * math.sqrt(n)
    low = max(0, math.floor(n / 2 - reach))
    high = min(n - 1, math.ceil(n / 2 + reach) - 1)
    return ordered[low], statistics.median(ordered), ordered[high]


def ceilings(device: torch.device) -> dict[str, float]:
    """What this device reaches: bytes per second of a copy, operations per second of a product."""
    clock = Clock(device)

    def best(fn: Call) -> float:
        return min(clock(fn, "kernel") for _ in range(10)) / 1e6

    def copy_rate(size: int) -> float:
        source = torch.randint(255, (size,), dtype=torch.uint8, device=device)
        sink = torch.empty_like(source)
        return 2 * size / best(lambda: sink.copy_(source))

    def product_rate(n: int, dtype: torch.dtype) -> float:
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        return 2 * n**3 / best(lambda: a @ b)

    if not clock.gpu:  # which has no fp16 arithmetic worth a measurement
        return {"bytes": copy_rate(2**28),
                **{name: product_rate(1024, DTYPES[name]) for name in ("fp32", "bf16")}}
    return {"bytes": copy_rate(2**31),
            **{name: product_rate(4096 if dtype == torch.float32 else 8192, dtype)
               for name, dtype in DTYPES.items()}}


@contextmanager
def _quiet() -> Iterator[None]:
    """Nothing reaches the terminal's standard error, where the profiler logs its own steps."""
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def host_peak(fn: Call) -> int:
    """Bytes that a call on a CPU holds at once above what was there before."""
    from torch.profiler import ProfilerActivity, profile

    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        fn()
    assert trace.profiler is not None
    held = peak = 0
    for event in trace.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def device_events(fn: Call) -> list[str]:
    """Names of all kernels, copies and fills that a call puts on the GPU."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as trace:
        fn()
        torch.cuda.synchronize()
    return [event.name for event in trace.events() or () if event.device_type == DeviceType.CUDA
            and not getattr(event, "is_user_annotation", False)]


def captured(fn: Call) -> Call:
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
