"""What a call costs the host: the Python of every operator, in units of one ``F.gelu``.

Small maps on a GPU wait for the host, and PyTorch's own operators set the pace there. So each
operator is called on its tiny shape with Triton in front of a GPU that is not there
(:mod:`benchmarks.stub`: everything happens but compiling and launching), and its processor time is
divided by that of one ``F.gelu`` forward and backward, times two more than its launches. Process
time, one thread, the least of interleaved repetitions: other load on the machine hardly shows.

    python -m benchmarks.host                          every operator; 1 where one is over the goal
    python -m benchmarks.host --operators dyrelu --profile     and where the time goes
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F

from .registry import DTYPES, ENTRIES, Entry, flatten
from .stub import Stub, stubbed

__all__ = ["GOAL", "Cost", "call", "cost", "host"]

GOAL = 0.4


def _nothing(_device: torch.device) -> None:
    """No reason against Triton; a mock's own answer would be part of the cost."""


@contextmanager
def host() -> Iterator[Stub]:
    """Operators take their Triton kernels on CPU tensors, which a stub launches."""
    import fastdet
    from fastdet.kernels import dispatch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with (stubbed() as stub, fastdet.backend("triton"),
              mock.patch.object(dispatch, "device_reason", _nothing)):
            stub.keep = False
            yield stub
    finally:
        torch.set_num_threads(threads)


def call(entry: Entry, backward: bool) -> Callable[[], Any]:
    """A call of ``entry`` on its tiny shape, in bfloat16 where it takes that."""
    dtype = DTYPES["bf16" if "bf16" in entry.dtypes else entry.dtypes[0]]
    inputs = entry.make(dtype=dtype, device=torch.device("cpu"), **entry.tiny)
    run = entry.providers["fastdet"].run

    def forward() -> Any:
        with torch.no_grad():
            return run(inputs)

    def both() -> None:
        outputs = [out for out in flatten(run(inputs)) if out.requires_grad]
        torch.autograd.backward(outputs, [torch.empty_like(out) for out in outputs])

    return both if backward else forward


def gelu() -> Callable[[], Any]:
    """The unit: forward and backward of one ``F.gelu`` on few numbers."""
    x = torch.zeros(2, 16, 4, 4, dtype=torch.bfloat16).requires_grad_()

    def both() -> None:
        y = F.gelu(x)
        y.backward(torch.empty_like(y))

    return both


def _once(fn: Callable[[], Any], times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        fn()
    return (time.process_time() - start) / times


@dataclass(frozen=True)
class Cost:
    """Processor time of one call, in microseconds.

    Attributes:
        forward: without a gradient.
        whole: with the backward pass, where there is one.
        unit: one ``F.gelu`` forward and backward, beside it.
        launches: of ``whole``.
    """

    forward: float
    whole: float
    unit: float
    launches: int

    @property
    def ratio(self) -> float:
        return self.whole / (2 + self.launches) / self.unit


def cost(entry: Entry, stub: Stub, rounds: int = 40, times: int = 20) -> Cost:
    """Measure one operator inside :func:`host`."""
    calls = [gelu(), call(entry, backward=False), call(entry, backward=entry.trains)]
    for fn in calls:
        _once(fn, 5)
    least = [min(column) * 1e6 for column in
             zip(*([_once(fn, times) for fn in calls] for _ in range(rounds)))]
    before = stub.launched
    calls[2]()
    return Cost(least[1], least[2], least[0], stub.launched - before)


def main(argv: list[str] | None = None) -> int:
    """The command line; 1 where an operator is over the goal."""
    operators = [name for name, entry in ENTRIES.items() if entry.kind == "operator"]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.host", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operators", nargs="+", choices=operators, default=operators,
                        metavar="NAME")
    parser.add_argument("--goal", type=float, default=GOAL)
    parser.add_argument("--profile", action="store_true", help="print functions by their own time")
    options = parser.parse_args(argv)
    worst = 0.0
    print(f"{'operator':34}{'forward':>9}{'whole':>9}{'launches':>10}{'ratio':>7}   "
          f"(us; torch {torch.__version__}, one thread, process time)")
    with host() as stub:
        for name in options.operators:
            entry = ENTRIES[name]
            found = cost(entry, stub)
            worst = max(worst, found.ratio)
            print(f"{name:34}{found.forward:9.1f}{found.whole:9.1f}{found.launches:10}"
                  f"{found.ratio:7.2f}", flush=True)
            if options.profile:
                fn, profile = call(entry, backward=entry.trains), cProfile.Profile()
                profile.enable()
                _once(fn, 200)
                profile.disable()
                pstats.Stats(profile).sort_stats("tottime").print_stats(24)
    print(f"worst {worst:.2f}, goal {options.goal}")
    return int(worst > options.goal)


if __name__ == "__main__":
    sys.exit(main())
