"""Fixtures and rules that hold for every test.

Tests of Triton kernels carry the marker ``kernel`` and take the fixture ``kernel_device``. They run
in a process of their own under ``TRITON_INTERPRET=1`` (on the CPU), and on a GPU where there is
one; elsewhere they are deselected. Those with the marker ``records`` run where it is asked for.
"""

import os

import hypothesis
import pytest
import torch

INTERPRETING = os.environ.get("TRITON_INTERPRET", "0") == "1"
GPU = torch.cuda.is_available() and not INTERPRETING


hypothesis.settings.register_profile(
    "fastdet", derandomize=True, deadline=None, print_blob=True, database=None)
hypothesis.settings.load_profile("fastdet")


def pytest_collection_modifyitems(config, items):
    keep, drop = [], []
    for item in items:
        needs_kernel = item.get_closest_marker("kernel") is not None
        needs_gpu = item.get_closest_marker("gpu") is not None
        asked = (item.get_closest_marker("records") is None
                 or "records" in config.getoption("markexpr"))
        runs = (not needs_kernel or INTERPRETING or GPU) and (not needs_gpu or GPU) and asked
        (keep if runs else drop).append(item)
    items[:] = keep
    if drop:
        config.hook.pytest_deselected(items=drop)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def kernel_device():
    """Where Triton kernels run in this process, with the triton backend in force."""
    import fastdet

    with fastdet.backend("triton"):
        yield torch.device("cuda" if GPU else "cpu")


@pytest.fixture
def poison():
    """Uninitialised memory is NaN (or true), so that an element nobody wrote shows, and lies
    between strips that nobody may write into."""
    from fastdet.testing.memory import guarded

    with guarded() as guards:
        yield
    assert not guards.overrun()
