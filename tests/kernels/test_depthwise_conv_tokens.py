"""Depthwise convolution of tokens: the definition, its gradients, the kernels against fp64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdet
from benchmarks.operators.depthwise_conv_tokens import depthwise_conv_tokens_eager
from fastdet.kernels.depthwise_conv_tokens import depthwise_conv_tokens
from fastdet.kernels.depthwise_conv_tokens import op as op_module
from fastdet.testing import assert_accurate

FULL, HALF, BF = torch.float32, torch.float16, torch.bfloat16


def inputs(b, h, w, c, dtype=torch.float64, device="cpu"):
    def draw(*shape):
        return torch.randn(shape, dtype=torch.float64).to(device, dtype)
    return [draw(b, h * w, c), draw(c, 1, 3, 3), draw(c)]


def run(tensors, hw, gelu, grad):
    leaves = [t if t is None else t.detach().requires_grad_() for t in tensors]
    out = depthwise_conv_tokens(*leaves, hw, gelu=gelu)
    return [out, *torch.autograd.grad(out, [t for t in leaves if t is not None], grad)]


def check(tensors, hw, gelu):
    """The kernels, forward and backward, against torch and against float64."""
    grad = torch.randn(tensors[0].shape, device=tensors[0].device).to(tensors[0])
    got = run(tensors, hw, gelu, grad)
    with fastdet.backend("torch"):
        torchs = run(tensors, hw, gelu, grad)
        truth = run([t if t is None else t.double() for t in tensors], hw, gelu, grad.double())
    for name, mine, theirs, exact in zip(("out", "dx", "dweight", "dbias"), got, torchs, truth):
        assert mine.dtype == theirs.dtype
        assert_accurate(name, mine, theirs, exact, mine.dtype)


@pytest.mark.parametrize("gelu", [False, True])
def test_definition(gelu):
    x, weight, bias = inputs(2, 3, 5, 4)
    got = depthwise_conv_tokens(x, weight, bias, (3, 5), gelu=gelu)
    torch.testing.assert_close(got, depthwise_conv_tokens_eager(x, weight, bias, (3, 5), gelu))
    impulse = torch.zeros(1, 9, 4, dtype=x.dtype)
    impulse[0, 4] = 1
    spread = depthwise_conv_tokens(impulse, weight, None, [3, 3])
    torch.testing.assert_close(spread[0], weight.flatten(1).T.flip(0))


def test_gradcheck():
    leaves = [t.requires_grad_() for t in inputs(1, 2, 3, 2)]
    assert torch.autograd.gradcheck(
        lambda *t: depthwise_conv_tokens(*t, (2, 3), gelu=True), leaves)


@pytest.mark.parametrize(("change", "text"), [
    ({"x": torch.zeros(2, 7, 4)}, r"x must be floating-point \[B, 2 \* 3, C\]"),
    ({"weight": torch.zeros(4, 4, 3, 3)}, r"weight must be \[4, 1, 3, 3\] on cpu"),
    ({"bias": torch.zeros(5)}, r"bias must be \[4\] on cpu"),
])
def test_bad_input(change, text):
    given = {"x": torch.zeros(2, 6, 4), "weight": torch.zeros(4, 1, 3, 3), "bias": None, **change}
    with pytest.raises(ValueError, match=text):
        depthwise_conv_tokens(**given, hw_shape=(2, 3))


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("dtype", "gelu", "size"), [
    (BF, False, (2, 5, 17, 24)), (HALF, True, (1, 4, 3, 70)), (FULL, True, (3, 3, 2, 64))], ids=str)
def test_kernel(kernel_device, dtype, gelu, size):
    check(inputs(*size, dtype, kernel_device), size[1:3], gelu)


@pytest.mark.kernel
@settings(max_examples=4)
@given(size=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9)),
       gelu=st.booleans(), biased=st.booleans())
def test_kernel_of_any_size(size, gelu, biased):
    """Also: a map turned on its side, with a weight turned so, gives the result turned."""
    h, w = size[1:3]
    with fastdet.backend("triton"):
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        x, weight, bias = inputs(*size, FULL, device)
        bias = bias if biased else None
        check([x, weight, bias], (h, w), gelu)
        turned = x.unflatten(1, (h, w)).transpose(1, 2).flatten(1, 2)
        got = depthwise_conv_tokens(turned, weight.transpose(2, 3), bias, (w, h), gelu=gelu)
        got = got.unflatten(1, (w, h)).transpose(1, 2).flatten(1, 2)
        torch.testing.assert_close(got, depthwise_conv_tokens(x, weight, bias, (h, w), gelu=gelu))


@pytest.mark.kernel
def test_kernel_takes_what_is_no_plain_batch(kernel_device):
    """Other strides, no tokens, a wider weight, frozen tensors."""
    x, weight, bias = inputs(2, 3, 4, 5, FULL, kernel_device)
    want = depthwise_conv_tokens(x, weight, bias, (3, 4))
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(depthwise_conv_tokens(turned, weight, bias, (3, 4)), want)
    half = depthwise_conv_tokens(x.bfloat16(), weight, bias, (3, 4))
    torch.testing.assert_close(half.float(), want, rtol=3e-2, atol=5e-2)
    for no in ((2, 0, 4), (2, 3, 0), (0, 3, 4)):
        empty = x.new_empty(no[0], no[1] * no[2], 5).requires_grad_()
        weight.requires_grad_()
        out = depthwise_conv_tokens(empty, weight, bias, no[1:])
        assert out.shape == empty.shape
        assert not torch.autograd.grad(out.sum(), weight)[0].any()
    x.requires_grad_()
    for gelu in (False, True):
        whole = run([x, weight, bias], (3, 4), gelu, torch.ones_like(x))
        for kept in range(3):
            leaves = [t.detach().requires_grad_(i == kept) for i, t in enumerate((x, weight, bias))]
            out = depthwise_conv_tokens(*leaves, (3, 4), gelu=gelu)
            assert torch.equal(torch.autograd.grad(out.sum(), leaves[kept])[0], whole[1 + kept])


@pytest.mark.kernel
def test_kernel_refuses_what_it_cannot(kernel_device):
    with pytest.raises(fastdet.BackendError, match="float16 and bfloat16, not float64"):
        depthwise_conv_tokens(*inputs(1, 2, 2, 4, device=kernel_device), (2, 2))


@pytest.mark.parametrize(("width", "walks", "places"), [
    (336, 200, 528), (168, 112, 396), (84, 80, 396), (42, 128, 528), (7, 1, 528), (40, 1000, 396)])
def test_walks_fill_waves(width, walks, places):
    """No other span takes fewer columns in all waves of programs."""
    def columns(span):
        return -(-walks * -(-width // span) // places) * (span + 4)

    span = op_module._span(width, walks, places)
    assert min(width, 8) <= span <= width
    assert columns(span) == min(columns(s) for s in range(min(width, 8), width + 1))


@pytest.mark.kernel
def test_opcheck(kernel_device):
    x, weight, bias = (t.requires_grad_() for t in inputs(1, 2, 3, 4, FULL, kernel_device))
    torch.library.opcheck(op_module._forward.traced, (x, weight, bias, 2, 3, True))
