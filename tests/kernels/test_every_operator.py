"""Every operator of the table on a few numbers, forward and backward, Triton against the reference.

Wide and shallow. The pinned Triton has each operator's own tests; this is what others are held to,
where what may differ is the language.
"""

import pytest
import torch

import fastdet
from benchmarks.registry import DTYPES, ENTRIES, differentiate, flatten, upcast
from fastdet.kernels import dispatch
from fastdet.testing.accuracy import assert_accurate

OPERATORS = [entry for entry in ENTRIES.values() if entry.kind == "operator"]
#: All in float32, and a sum and a product of bfloat16, of which the interpreter is mended.
CASES = [(entry, dtype) for entry in OPERATORS for dtype in ("fp32", "bf16")
         if dtype in entry.dtypes and (dtype == "fp32" or entry.name in (
             "dyrelu", "gelu_linear", "spatial_reduction_attention"))]


def results(entry, inputs):
    run = entry.providers["fastdet"].run
    torch.manual_seed(1)  # for the operators that draw on a tensor of their inputs
    outputs = [out.detach() for out in flatten(run(inputs))]
    return [*outputs, *(differentiate(run, inputs) if entry.trains else ())]


@pytest.mark.kernel
@pytest.mark.parametrize(("entry", "dtype"), CASES, ids=lambda x: getattr(x, "name", x))
def test_kernels_do_what_the_reference_does(kernel_device, entry, dtype):
    inputs = entry.make(dtype=DTYPES[dtype], device=kernel_device, **entry.tiny)
    seen = []
    with dispatch.observe(lambda name, device, triton, reason: seen.append(triton)):
        got = results(entry, inputs)
    assert all(seen)  # none where a batch is valid everywhere, which is one fill
    with fastdet.backend("torch"):
        torch_run = results(entry, inputs)
        truth = results(entry, upcast(inputs)) if entry.trains else torch_run
    for i, (mine, its, true) in enumerate(zip(got, torch_run, truth, strict=True)):
        name = f"{entry.name}, result {i}"
        if its.is_floating_point():  # what is exact to the bit is held so by its own tests
            assert_accurate(name, mine, its, true, DTYPES[dtype])
        else:
            assert torch.equal(mine, its), name
