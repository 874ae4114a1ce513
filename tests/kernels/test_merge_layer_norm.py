"""Merging of tokens and layer norm: the definition, its gradients, the kernels against fp64."""

import pytest
import torch
from torch.nn import functional as F

import fastdet
from fastdet.kernels.merge_layer_norm import merge_layer_norm
from fastdet.kernels.merge_layer_norm import op as op_module
from fastdet.testing import assert_accurate

FULL, HALF, BF = torch.float32, torch.float16, torch.bfloat16


def inputs(b, hw, c, x=torch.float64, device="cpu"):
    """x, weight and bias, float64 rounded to their types."""
    wide = torch.promote_types(x, FULL)
    return [torch.randn(shape, dtype=torch.float64).to(device, dtype)
            for shape, dtype in (((b, hw[0] * hw[1], c), x), (4 * c, wide), (4 * c, wide))]


def run(tensors, hw, grad, dtype=None):
    leaves = [t.detach().requires_grad_() for t in tensors]
    x, weight, bias = leaves
    out = merge_layer_norm(x, hw, weight, bias, 1e-6, dtype=dtype)
    return [out, *torch.autograd.grad(out, leaves, grad)]


@pytest.mark.parametrize("hw", [(4, 6), (5, 3), (1, 1)])
def test_definition_is_unfold_and_layer_norm(hw):
    x, weight, bias = inputs(2, hw, 3)
    grid = F.pad(x.mT.unflatten(2, hw), (0, hw[1] % 2, 0, hw[0] % 2))
    merged = F.unfold(grid, 2, stride=2).mT
    want = F.layer_norm(merged, (12,), weight, bias, 0.5)
    torch.testing.assert_close(merge_layer_norm(x, hw, weight, bias, 0.5), want)


def test_gradcheck():
    leaves = [t.requires_grad_() for t in inputs(1, (3, 2), 2)]
    assert torch.autograd.gradcheck(lambda x, w, b: merge_layer_norm(x, (3, 2), w, b), leaves)


@pytest.mark.parametrize(("change", "text"), [
    ({"x": torch.zeros(2, 6, 4).long()}, r"x must be floating-point .* got torch.int64"),
    ({"hw": (2, 2)}, r"x must be floating-point \[B, H \* W, C\] of a map of 2 x 2"),
    ({"weight": torch.zeros(4)}, r"weight must be \[16\] on cpu, got \[4\] on cpu"),
    ({"bias": torch.zeros(1, 16)}, r"bias must be \[16\] on cpu"),
])
def test_bad_input(change, text):
    given = {"x": torch.zeros(2, 6, 4), "hw": (3, 2), "weight": torch.zeros(16),
             "bias": torch.zeros(16), **change}
    with pytest.raises(ValueError, match=text):
        merge_layer_norm(**given)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("x", "dtype"), [(FULL, FULL), (FULL, BF), (HALF, HALF)],
                         ids=str)
@pytest.mark.parametrize(("b", "hw", "c"), [(2, (6, 10), 24), (1, (5, 7), 12), (2, (1, 3), 260),
                                            (1, (3, 2), 3)], ids=str)
def test_kernel(kernel_device, x, dtype, b, hw, c):
    tensors = inputs(b, hw, c, x, kernel_device)
    grad = torch.randn(b, (hw[0] + 1) // 2 * ((hw[1] + 1) // 2), 4 * c,
                       device=kernel_device).to(dtype)
    got = run(tensors, hw, grad, dtype)
    with fastdet.backend("torch"):
        torchs = run(tensors, hw, grad, dtype)
        truth = run([t.double() for t in tensors], hw, grad.double())
    for name, mine, theirs, exact in zip(("out", "dx", "dweight", "dbias"), got, torchs, truth):
        assert mine.dtype == theirs.dtype
        assert_accurate(name, mine, theirs, exact, mine.dtype)


@pytest.mark.kernel
def test_kernel_takes_what_is_no_plain_batch(kernel_device):
    """Other strides, no maps, frozen weights."""
    x, weight, bias = inputs(2, (2, 3), 16, FULL, kernel_device)
    want = merge_layer_norm(x, (2, 3), weight, bias)
    turned = x.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(merge_layer_norm(turned, (2, 3), weight, bias), want)
    assert merge_layer_norm(x[:0], (2, 3), weight, bias).shape == (0, 2, 64)
    x.requires_grad_()
    (dx,) = torch.autograd.grad(merge_layer_norm(x, (2, 3), weight, bias).sum(), x)
    assert torch.isfinite(dx).all()


@pytest.mark.kernel
def test_kernel_refuses_what_it_cannot(kernel_device):
    for c, dtype, text in ((4, torch.float64, "not float64"),
                           (1025, FULL, "at most 4096 channels, not 4100")):
        x, weight, bias = inputs(1, (1, 1), c, dtype, kernel_device)
        with pytest.raises(fastdet.BackendError, match=text):
            merge_layer_norm(x, (1, 1), weight, bias)


@pytest.mark.kernel
def test_opcheck(kernel_device):
    x, weight, bias = (t.requires_grad_() for t in inputs(1, (3, 2), 4, FULL, kernel_device))
    torch.library.opcheck(op_module._forward.traced, (x, 3, 2, weight, bias, 1e-5, BF))
