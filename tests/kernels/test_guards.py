"""No operator writes outside its results, leaves some unwritten, or reads outside its inputs.

Every tensor that an operator makes lies between two runs of canaries, and is NaN where nothing was
written; every input lies between NaNs. What the kernels then compute must be what the reference
computes from plain tensors.
"""

import pytest
import torch
from operator_cases import CASES, flat

import fastdet

#: Numbers on each side; a block of any kernel reaches less far past an end.
MARGIN = 4096
CANARY = {True: 777.0, False: 77}


class Guards:
    """Allocations between canaries; to be put in the place of torch's own."""

    def __init__(self, monkeypatch):
        self.made = []
        for name in ("empty", "empty_like", "empty_strided", "zeros", "zeros_like"):
            monkeypatch.setattr(torch, name, self.guarded(getattr(torch, name), "zeros" in name))
        for name in ("new_empty", "new_zeros"):
            guarded = self.guarded(getattr(torch.Tensor, name), "zeros" in name)
            monkeypatch.setattr(torch.Tensor, name, guarded)

    def guarded(self, allocate, zero):
        def wrapper(*args, **kwargs):
            plain = allocate(*args, **kwargs)
            if plain.numel() == 0 or plain.dtype == torch.bool:
                return plain
            length = sum((n - 1) * step for n, step in zip(plain.shape, plain.stride())) + 1
            floating = plain.is_floating_point()
            whole = torch.full((length + 2 * MARGIN,), CANARY[floating], dtype=plain.dtype,
                               device=plain.device)
            inside = whole.as_strided(plain.shape, plain.stride(), MARGIN)
            inside.fill_(0 if zero else float("nan") if floating else 1)
            self.made.append((whole, length))
            return inside
        return wrapper

    def check(self):
        assert self.made
        for whole, length in self.made:
            canary = CANARY[whole.is_floating_point()]
            assert (whole[:MARGIN] == canary).all(), "written before a tensor"
            assert (whole[MARGIN + length:] == canary).all(), "written behind a tensor"


def between_nans(tensor):
    whole = torch.full((tensor.numel() + 2 * MARGIN,), float("nan"), dtype=tensor.dtype,
                       device=tensor.device)
    inside = whole[MARGIN:MARGIN + tensor.numel()].view(tensor.shape)
    inside.copy_(tensor)
    return inside.detach()


def run(case, given, place):
    leaves = {name: place(t).requires_grad_(case.differentiable) for name, t in given.items()}
    outputs = flat(case.call(**leaves))
    results = [t.detach() for t in outputs]
    if case.differentiable:
        generator = torch.Generator().manual_seed(1)
        grads = [place(torch.randn(t.shape, generator=generator).to(t)) for t in outputs]
        results += torch.autograd.grad(outputs, list(leaves.values()), grads)
    return results


@pytest.mark.kernel
@pytest.mark.parametrize("name", CASES)
def test_between_guards(kernel_device, monkeypatch, name):
    case = CASES[name]
    given = case.make(kernel_device)
    with fastdet.backend("torch"):
        want = run(case, given, torch.clone)
    with monkeypatch.context() as patch:
        guards = Guards(patch)
        got = run(case, given, between_nans)
    if name != "gaussian_targets":  # draws in place
        guards.check()
    for mine, its in zip(got, want, strict=True):
        torch.testing.assert_close(mine, its, rtol=1e-3, atol=1e-4)
