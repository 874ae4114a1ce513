"""Dynamic ReLU: the reference's definition and gradients, the kernels against fp64."""

import pytest
import torch

import fastdet
from fastdet.kernels.dyrelu import dyrelu
from fastdet.kernels.dyrelu import op as op_module
from fastdet.testing import assert_accurate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def inputs(b, c, h, w, dtype=torch.float64, device="cpu"):
    x = torch.randn(b, c, h, w, dtype=torch.float64).to(device, dtype)
    coeffs = torch.rand(b, 4 * c, dtype=torch.float64).to(device, dtype)
    return x.requires_grad_(), coeffs.requires_grad_()


def run(x, coeffs, grad):
    out = dyrelu(x, coeffs)
    return (out, *torch.autograd.grad(out, (x, coeffs), grad))


def test_coefficients_of_one_half_make_a_relu():
    x, _ = inputs(2, 3, 4, 5)
    assert torch.equal(dyrelu(x, torch.full((2, 12), 0.5, dtype=x.dtype)), x.relu())


def test_each_line_is_that_of_its_coefficients():
    x = torch.tensor([-2.0, 3.0]).view(1, 1, 1, 2)
    coeffs = torch.tensor([[1.0, 0.25, 0.0, 0.75]])  # lines 2 x - 0.25 and -x + 0.25
    assert dyrelu(x, coeffs).flatten().tolist() == [2.25, 5.75]


def test_reference_gradcheck():
    assert torch.autograd.gradcheck(dyrelu, inputs(2, 3, 2, 2))


@pytest.mark.parametrize(("x", "coeffs", "text"), [
    (torch.zeros(2, 3), torch.zeros(2, 12), r"x must be floating-point \[B, C, H, W\]"),
    (torch.zeros(2, 3, 4, 4), torch.zeros(2, 9), r"coeffs must be \[2, 12\] on cpu"),
])
def test_bad_input(x, coeffs, text):
    with pytest.raises(ValueError, match=text):
        dyrelu(x, coeffs)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 2, 50, 43), (1, 1, 1, 1)])
def test_kernel(kernel_device, dtype, shape):
    x, coeffs = inputs(*shape, dtype, kernel_device)
    grad = torch.randn(shape, device=kernel_device).to(dtype)
    got = run(x, coeffs, grad)
    with fastdet.backend("torch"):
        torchs = run(x, coeffs, grad)
        truth = run(*(t.detach().double().requires_grad_() for t in (x, coeffs)), grad.double())
    for name, mine, theirs, exact in zip(("out", "dx", "dcoeffs"), got, torchs, truth):
        assert mine.dtype == dtype
        assert_accurate(name, mine, theirs, exact, dtype)


@pytest.mark.kernel
def test_kernel_shares_the_gradient_of_a_tie(kernel_device):
    x = torch.zeros(1, 1, 2, 2, device=kernel_device, requires_grad=True)  # both lines give 0
    coeffs = torch.full((1, 4), 0.5, device=kernel_device, requires_grad=True)
    grad = torch.ones_like(x)
    _, dx, dcoeffs = run(x, coeffs, grad)
    with fastdet.backend("torch"):
        _, want_x, want = run(x, coeffs, grad)
    assert torch.equal(dx, want_x)
    assert torch.equal(dcoeffs, want)
    assert dcoeffs.tolist() == [[0, 2, 0, 2]]


@pytest.mark.kernel
def test_kernel_takes_any_strides_and_mixed_types(kernel_device):
    x, coeffs = inputs(2, 3, 4, 5, torch.float16, kernel_device)
    want = dyrelu(x, coeffs)
    last = x.detach().contiguous(memory_format=torch.channels_last)
    assert torch.equal(dyrelu(last, coeffs.float()), want)
    dx = torch.autograd.grad(want.sum(), x)[0]  # the gradient of a sum is expanded
    assert torch.isfinite(dx).all()
    assert dyrelu(x[:0], coeffs[:0]).shape == (0, 3, 4, 5)


@pytest.mark.kernel
def test_kernel_refuses_what_it_cannot(kernel_device):
    with pytest.raises(fastdet.BackendError, match="not float64"):
        dyrelu(*inputs(1, 2, 2, 2, device=kernel_device))


@pytest.mark.kernel
def test_opcheck(kernel_device):
    torch.library.opcheck(op_module._forward.traced,
                          inputs(1, 2, 3, 3, torch.float32, kernel_device))
