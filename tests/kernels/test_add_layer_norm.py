"""Residual sum and layer norm: the definition, its gradients, the kernels against fp64."""

import pytest
import torch
from torch.nn import functional as F

import fastdet
from fastdet.kernels.add_layer_norm import add_layer_norm
from fastdet.kernels.add_layer_norm import op as op_module
from fastdet.testing import assert_accurate

FULL, HALF, BF = torch.float32, torch.float16, torch.bfloat16


def inputs(b, n, c, x=torch.float64, branch=torch.float64, device="cpu"):
    """x, branch, weight, bias and the gradients of sum and norm, float64 rounded to their types."""
    types = (x, branch, FULL if x != torch.float64 else x, FULL if x != torch.float64 else x)
    shapes = ((b, n, c), (b, n, c), (c,), (c,))
    return [torch.randn(shape, dtype=torch.float64).to(device, dtype)
            for shape, dtype in zip(shapes, types)]


def run(tensors, grads, scale=None, dtype=None, alone=False):
    x, branch, weight, bias = (t.detach().requires_grad_() for t in tensors)
    leaves = [x, weight, bias] if alone else [x, branch, weight, bias]
    total, out = add_layer_norm(x, None if alone else branch, weight, bias, 1e-6, scale=scale,
                                dtype=dtype)
    outputs = [out] if alone else [total, out]
    return [*outputs, *torch.autograd.grad(outputs, leaves, grads[-len(outputs):])]


def test_definition():
    x, branch, weight, bias = inputs(2, 3, 8)
    scale = torch.tensor([0.0, 2.0], dtype=x.dtype)
    total, out = add_layer_norm(x, branch, weight, bias, 0.5, scale=scale)
    assert torch.equal(total[0], x[0])
    assert torch.equal(total[1], x[1] + 2 * branch[1])
    mean, var = total.mean(-1, keepdim=True), total.var(-1, unbiased=False, keepdim=True)
    torch.testing.assert_close(out, (total - mean) / (var + 0.5).sqrt() * weight + bias)
    alone, normed = add_layer_norm(x, None, weight, bias)
    assert alone is x
    assert torch.equal(normed, F.layer_norm(x, (8,), weight, bias))


def test_gradcheck():
    leaves = [t.requires_grad_() for t in inputs(2, 2, 5)]
    scale = torch.tensor([0.5, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *t: add_layer_norm(*t, scale=scale), leaves)


@pytest.mark.parametrize(("change", "text"), [
    ({"x": torch.zeros(3)}, r"x must be floating-point \[B, ..., C\]"),
    ({"branch": torch.zeros(2, 3, 5)}, r"branch must be floating-point \[2, 3, 4\]"),
    ({"weight": torch.zeros(3)}, r"weight must be \[4\] on cpu"),
    ({"bias": torch.zeros(1, 4)}, r"bias must be \[4\] on cpu"),
    ({"scale": torch.zeros(3)}, r"scale must be \[2\] and come with a branch"),
    ({"branch": None, "scale": torch.zeros(2)}, r"scale must be \[2\] and come with a branch"),
])
def test_bad_input(change, text):
    given = {"x": torch.zeros(2, 3, 4), "branch": torch.zeros(2, 3, 4), "weight": torch.zeros(4),
             "bias": torch.zeros(4), **change}
    with pytest.raises(ValueError, match=text):
        add_layer_norm(**given)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("x", "branch"), [(FULL, FULL), (FULL, BF), (FULL, HALF), (HALF, HALF),
                                           (BF, BF), (BF, FULL)], ids=str)
@pytest.mark.parametrize(("shape", "scaled"), [((2, 37, 96), True), ((1, 3, 1030), False),
                                               ((3, 1, 7), True)], ids=str)
def test_kernel(kernel_device, x, branch, shape, scaled):
    tensors = inputs(*shape, x, branch, kernel_device)
    scale = torch.tensor([0.0, 1.25, 0.5], device=kernel_device)[:shape[0]] if scaled else None
    total = torch.promote_types(x, branch)
    grads = [torch.randn(shape, device=kernel_device).to(t) for t in (total, branch)]
    got = run(tensors, grads, scale, branch)
    with fastdet.backend("torch"):
        torchs = run(tensors, grads, scale, branch)
        truth = run([t.double() for t in tensors], [g.double() for g in grads],
                    None if scale is None else scale.double())
    for name, mine, theirs, exact in zip(
            ("total", "out", "dx", "dbranch", "dweight", "dbias"), got, torchs, truth):
        assert mine.dtype == theirs.dtype
        assert_accurate(name, mine, theirs, exact, mine.dtype)


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [FULL, BF])
def test_kernel_without_a_branch(kernel_device, dtype):
    tensors = inputs(2, 11, 48, FULL, FULL, kernel_device)
    grads = [torch.randn(2, 11, 48, device=kernel_device).to(dtype)]
    got = run(tensors, grads, dtype=dtype, alone=True)
    with fastdet.backend("torch"):
        torchs = run(tensors, grads, dtype=dtype, alone=True)
        truth = run([t.double() for t in tensors], [grads[0].double()], alone=True)
    for name, mine, theirs, exact in zip(("out", "dx", "dweight", "dbias"), got, torchs, truth):
        assert_accurate(name, mine, theirs, exact, mine.dtype)


@pytest.mark.kernel
@pytest.mark.parametrize("reads", ["sum", "norm", "sum and norm"])
def test_the_gradient_of_a_sum_without_a_branch_comes_back_in_the_same_pass(
        kernel_device, reads, monkeypatch):
    x, _, weight, bias = inputs(2, 5, 16, FULL, FULL, kernel_device)
    grads = dict(zip(("sum", "norm"), torch.randn(2, 2, 5, 16, device=kernel_device)))
    read = reads.split(" and ")
    passes = []
    backward = op_module._backward
    monkeypatch.setattr(op_module, "_backward", lambda *args: passes.append(1) or backward(*args))

    def gradients():
        leaf = x.clone().requires_grad_()
        outs = dict(zip(("sum", "norm"), add_layer_norm(leaf * 2, None, weight, bias)))
        assert torch.equal(outs["sum"], leaf * 2)
        return torch.autograd.grad([outs[name] for name in read], leaf,
                                   [grads[name] for name in read])[0]

    got = gradients()
    assert len(passes) == 1
    with fastdet.backend("torch"):
        torch.testing.assert_close(got, gradients(), rtol=1e-5, atol=1e-5)


@pytest.mark.kernel
def test_many_programs_sum_in_one_order(kernel_device, monkeypatch):
    """Each program walks over several tiles; the partial sums make the same bits every time."""
    op_module._plan.cache_clear()
    monkeypatch.setattr(op_module, "row_config", lambda *_: op_module.RowConfig(4, 32, 4, 3))
    tensors = inputs(2, 33, 24, FULL, FULL, kernel_device)
    grads = [torch.randn(2, 33, 24, device=kernel_device) for _ in range(2)]
    got, again = run(tensors, grads), run(tensors, grads)
    with fastdet.backend("torch"):
        want = run(tensors, grads)
    for mine, twice, theirs in zip(got, again, want):
        assert torch.equal(mine, twice)
        torch.testing.assert_close(mine, theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.kernel
def test_kernel_takes_what_is_no_plain_batch(kernel_device):
    """Other strides, no rows, frozen weights, a sum that nobody reads."""
    x, branch, weight, bias = inputs(2, 5, 16, FULL, FULL, kernel_device)
    want = add_layer_norm(x, branch, weight, bias)
    turned = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert all(map(torch.equal, add_layer_norm(turned, branch, weight, bias), want))
    assert add_layer_norm(x[:0], branch[:0], weight, bias)[1].shape == (0, 5, 16)
    x.requires_grad_()
    _, out = add_layer_norm(x, branch, weight, bias)
    (dx,) = torch.autograd.grad(out.sum(), x)
    assert torch.isfinite(dx).all()


@pytest.mark.kernel
def test_kernel_refuses_what_it_cannot(kernel_device):
    with pytest.raises(fastdet.BackendError, match="not float64"):
        add_layer_norm(*inputs(1, 2, 4, device=kernel_device))
    with pytest.raises(fastdet.BackendError, match="at most 4096 channels, not 4097"):
        add_layer_norm(*inputs(1, 1, 4097, FULL, FULL, kernel_device))


@pytest.mark.kernel
def test_opcheck(kernel_device):
    x, branch, weight, bias = (t.requires_grad_() for t in inputs(2, 3, 8, FULL, BF, kernel_device))
    scale = torch.ones(2, device=kernel_device)
    for given in ((x, branch, scale), (x, None, None)):
        torch.library.opcheck(op_module._forward.traced, (*given, weight, bias, 1e-5, BF))
