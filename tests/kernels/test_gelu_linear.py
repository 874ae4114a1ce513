"""GELU, linear layer and residual: the definition, its gradients, the kernels against fp64."""

import math

import pytest
import torch

import fastdet
from fastdet.kernels.gelu_linear import gelu_linear
from fastdet.kernels.gelu_linear import op as op_module
from fastdet.testing import assert_accurate

FULL, HALF, BF = torch.float32, torch.float16, torch.bfloat16


def inputs(b, n, k, c, hidden=torch.float64, residual=torch.float64, device="cpu"):
    """hidden, weight, bias and residual, the last with ``None`` as type left out."""
    def draw(*shape):
        return torch.randn(shape, dtype=torch.float64)
    return [draw(b, n, k).to(device, hidden), (draw(c, k) / k ** 0.5).to(device, hidden),
            draw(c).to(device, hidden),
            None if residual is None else draw(b, n, c).to(device, residual)]


def run(tensors, grad, scale=None):
    leaves = [t if t is None else t.detach().requires_grad_() for t in tensors]
    out = gelu_linear(*leaves, scale=scale)
    return [out, *torch.autograd.grad(out, [t for t in leaves if t is not None], grad)]


def test_definition():
    hidden, weight, bias, residual = inputs(2, 3, 6, 4)
    scale = torch.tensor([0.0, 2.0], dtype=hidden.dtype)
    act = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    out = gelu_linear(hidden, weight, bias, residual, scale=scale)
    assert torch.equal(out[0], residual[0])
    torch.testing.assert_close(out[1], residual[1] + 2 * (act[1] @ weight.T + bias))
    torch.testing.assert_close(gelu_linear(hidden, weight), act @ weight.T)


def test_gradcheck():
    leaves = [t.requires_grad_() for t in inputs(2, 2, 3, 4)]
    scale = torch.tensor([0.5, 2.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda *t: gelu_linear(*t, scale=scale), leaves)


@pytest.mark.parametrize(("change", "text"), [
    ({"hidden": torch.zeros(3)}, r"hidden must be floating-point \[B, ..., K\]"),
    ({"weight": torch.zeros(4, 5)}, r"weight must be \[N, 6\] on cpu"),
    ({"bias": torch.zeros(5)}, r"bias must be \[4\] on cpu"),
    ({"residual": torch.zeros(2, 3, 6)}, r"residual must be \[2, 3, 4\] on cpu"),
    ({"scale": torch.zeros(3)}, r"scale must be \[2\] on cpu"),
])
def test_bad_input(change, text):
    given = {"hidden": torch.zeros(2, 3, 6), "weight": torch.zeros(4, 6), **change}
    with pytest.raises(ValueError, match=text):
        gelu_linear(**given)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("hidden", "residual"), [(BF, FULL), (HALF, HALF), (BF, None)], ids=str)
@pytest.mark.parametrize(("k", "c", "scaled"), [(384, 96, True), (40, 24, False), (70, 320, True),
                                                (64, 64, False)])
def test_kernel(kernel_device, hidden, residual, k, c, scaled):
    tensors = inputs(2, 37, k, c, hidden, residual, kernel_device)
    scale = torch.tensor([0.0, 1.25], device=kernel_device) if scaled else None
    grad = torch.randn(2, 37, c, device=kernel_device).to(residual or hidden)
    got = run(tensors, grad, scale)
    with fastdet.backend("torch"):
        torchs = run(tensors, grad, scale)
        truth = run([t if t is None else t.double() for t in tensors], grad.double(),
                    None if scale is None else scale.double())
    names = ("out", "dhidden", "dweight", "dbias", "dresidual")
    for name, mine, theirs, exact in zip(names, got, torchs, truth):
        assert mine.dtype == theirs.dtype
        assert_accurate(name, mine, theirs, exact, mine.dtype)


@pytest.mark.kernel
def test_kernel_takes_what_is_no_plain_batch(kernel_device):
    """Other strides, no rows, a float32 weight, no bias and frozen weights."""
    hidden, weight, _, residual = inputs(2, 5, 32, 16, BF, FULL, kernel_device)
    want = gelu_linear(hidden, weight, None, residual)
    turned = hidden.transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(gelu_linear(turned, weight.float(), None, residual), want)
    assert gelu_linear(hidden[:0], weight).shape == (0, 5, 16)
    hidden.requires_grad_()
    (dhidden,) = torch.autograd.grad(gelu_linear(hidden, weight).sum(), hidden)
    with fastdet.backend("torch"):
        (dtorch,) = torch.autograd.grad(gelu_linear(hidden, weight).sum(), hidden)
    torch.testing.assert_close(dhidden, dtorch, rtol=2e-2, atol=2e-2)


@pytest.mark.kernel
def test_kernel_refuses_what_it_cannot(kernel_device):
    with pytest.raises(fastdet.BackendError, match="float16 and bfloat16, not float32"):
        gelu_linear(*inputs(1, 2, 16, 16, FULL, FULL, kernel_device))
    with pytest.raises(fastdet.BackendError, match="16 to 384 channels, not 385"):
        gelu_linear(*inputs(1, 2, 16, 385, BF, FULL, kernel_device))


@pytest.mark.parametrize("c", [16, 24, 32, 64, 72, 96, 112, 128, 160, 192, 256, 320, 384])
def test_launch_configs(c):
    """Two blocks hold the channels, and no more than they need."""
    for backward in (False, True):
        config = op_module._config(c, backward, False)
        assert c <= config.n_0 + config.n_1 <= max(32, c * 4 // 3)


@pytest.mark.kernel
def test_opcheck(kernel_device):
    hidden, weight, bias, residual = (
        t.requires_grad_() for t in inputs(2, 3, 16, 16, BF, FULL, kernel_device))
    scale = torch.ones(2, device=kernel_device)
    torch.library.opcheck(op_module._forward.traced, (hidden, weight, bias, residual, scale))
    torch.library.opcheck(op_module._forward.traced, (hidden, weight, None, None, None))
