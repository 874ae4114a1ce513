"""pytest-benchmark over the registry's tiny shapes: ``python -m pytest benchmarks/test_bench.py``.

For quick comparisons while editing (``--benchmark-compare``). Figures to quote come from
``python -m benchmarks`` on real shapes, which checks what it times.
"""

from typing import Any

import pytest
import torch

from fastdet.benchmarks.registry import DTYPES, ENTRIES
from fastdet.benchmarks.runner import PASSES, call

CASES = [(name, provider, passes) for name, entry in ENTRIES.items()
         for provider, how in entry.providers.items() if not how.compiled
         for passes in (PASSES if entry.trains else PASSES[:1])]


@pytest.mark.parametrize(("name", "provider", "passes"), CASES)
def test_bench(benchmark: Any, name: str, provider: str, passes: str) -> None:
    entry = ENTRIES[name]
    how = entry.providers[provider]
    inputs = how.prepare(entry.make(dtype=DTYPES["fp32"], device=torch.device("cpu"), **entry.tiny))
    benchmark.group = f"{name} {passes}"
    benchmark(call, how, inputs, passes)
