"""No operator writes outside its tensors, leaves results unwritten, or reads outside its inputs.

Every tensor that an operator makes lies between strips that are watched, and is NaN where nothing
was written; every input lies between NaNs, which are watched too. What the kernels then compute
must be what the reference computes from plain tensors.
"""

from pathlib import Path

import pytest
import torch
from operator_cases import CASES, flat

import fastdet
from fastdet import kernels
from fastdet.testing.memory import guarded

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402


def test_every_operator_with_a_kernel_has_a_case():
    folders = {path.parent.name for path in Path(kernels.__path__[0]).glob("*/kernel.py")}
    assert folders == {name.partition("-")[0] for name in CASES}


def run(case, given, place):
    leaves = {name: place(t) for name, t in given.items()}
    wanted = [t.requires_grad_() for t in leaves.values()
              if case.differentiable and t.is_floating_point()]
    outputs = flat(case.call(**leaves))
    results = [t.detach() for t in outputs]
    if case.differentiable:
        generator = torch.Generator().manual_seed(1)
        grads = [place(torch.randn(t.shape, generator=generator).to(t)) for t in outputs]
        results += torch.autograd.grad(outputs, wanted, grads, materialize_grads=True)
    return results


@pytest.mark.kernel
@pytest.mark.parametrize("name", CASES)
def test_between_guards(kernel_device, name):
    case = CASES[name]
    given = case.make(kernel_device)
    with fastdet.backend("torch"):
        want = run(case, given, torch.clone)
    with guarded() as guards:
        got = run(case, given, guards.between)
    assert not guards.overrun()
    for mine, its in zip(got, want, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-4)


@triton.jit
def reverse_kernel(x_ptr, out_ptr, N, AT: tl.constexpr, TO: tl.constexpr, BLOCK: tl.constexpr):
    """out[i] = x[N - 1 - i], from AT and into TO numbers beside the place."""
    i = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + (N - 1 - i) + AT, mask=i < N, other=0.0)
    tl.store(out_ptr + i + TO, x, mask=i < N)


@pytest.mark.kernel
@pytest.mark.parametrize(("at", "to", "caught"), [
    (0, 0, None), (1, 0, "read"), (-1, 0, "read"), (0, 1, "behind"), (0, -1, "before")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_a_step_outside_is_found(kernel_device, at, to, caught, dtype):
    x = torch.arange(5, dtype=dtype, device=kernel_device)
    with guarded() as guards:
        out = torch.empty_like(x)
        reverse_kernel[(1,)](guards.between(x), out, 5, at, to, 8)
    assert (caught in guards.overrun()) if caught in ("behind", "before") else not guards.overrun()
    assert torch.equal(out, x.flip(0)) == (caught is None)
