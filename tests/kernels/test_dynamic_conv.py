"""Dynamic convolution: reference against MMDetection's form, kernels against fp64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastdet
from benchmarks.operators.dynamic_conv import dynamic_conv_eager
from fastdet.kernels.dynamic_conv import dynamic_conv
from fastdet.kernels.dynamic_conv import op as op_module
from fastdet.testing import assert_accurate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NAMES = ("out", "dx", "dparams", "dw_in", "db_in", "dw_out", "db_out")


def inputs(n, c, s, feat, out, dtype=torch.float64, device="cpu", decided=False):
    """x, params and the norms' parameters.

    Args:
        decided: choose norms that leave no ReLU near zero. A gate that rounding has flipped is no
            error of a kernel, and torch's own run flips others.
    """
    x = torch.randn(n, c, s)
    params = torch.randn(n, c * feat + feat * out) / max(c, feat) ** 0.5
    tensors = [x, params]
    for channels in (feat, out):
        side = torch.randint(0, 2, (channels,)) * 2 - 1
        tensors.append(torch.rand(channels) * 0.2 + (0.2 if decided else 0.9))
        tensors.append(side * 2.0 if decided else torch.randn(channels) * 0.3)
    return [t.to(device, dtype).requires_grad_() for t in tensors]


def run(tensors, grad, function=dynamic_conv, **kwargs):
    out = function(*tensors, **kwargs)
    return (out, *torch.autograd.grad(out, tensors, grad.to(out.dtype)))


def hold(tensors, grad, dtype, **kwargs):
    """Kernel against torch's own run and the truth, in all results."""
    got = run(tensors, grad, **kwargs)
    with fastdet.backend("torch"):
        torchs = run(tensors, grad, **kwargs)
        truth = run([t.detach().double().requires_grad_() for t in tensors], grad.double())
    for name, mine, theirs, exact in zip(NAMES, got, torchs, truth):
        assert mine.dtype == theirs.dtype
        assert_accurate(name, mine, theirs, exact, dtype)


# ------------------------------------------------------------------ the reference
@given(st.integers(0, 3), st.integers(1, 5), st.integers(1, 9), st.integers(2, 4),
       st.integers(2, 6))
def test_reference_is_mmdetections_form(n, c, s, feat, out):
    tensors = inputs(n, c, s, feat, out)
    grad = torch.randn(n, s, out, dtype=torch.float64)
    for mine, theirs in zip(run(tensors, grad), run(tensors, grad, dynamic_conv_eager)):
        torch.testing.assert_close(mine, theirs)


def test_reference_gradcheck():
    assert torch.autograd.gradcheck(dynamic_conv, inputs(2, 5, 3, 4, 6))


@given(st.permutations(range(5)))
def test_commutes_with_a_permutation_of_the_proposals(order):
    x, params, *norms = inputs(5, 6, 4, 3, 7)
    torch.testing.assert_close(dynamic_conv(x[order], params[order], *norms),
                               dynamic_conv(x, params, *norms)[order])


def test_the_norms_take_their_own_eps():
    tensors = inputs(2, 4, 3, 4, 5)
    want = dynamic_conv_eager(*tensors, 0.5, 2.0)
    torch.testing.assert_close(dynamic_conv(*tensors, 0.5, 2.0), want)


def test_backward_fills_no_gradient_up_with_zeros():
    tensors = [t.float().detach().requires_grad_() for t in inputs(8, 64, 2, 64, 64)]
    size = tensors[1].numel() * 4

    def allocated(function):
        out = function(*tensors).sum()
        with torch.profiler.profile(profile_memory=True) as profile:
            torch.autograd.grad(out, tensors)
        return sum(max(0, event.self_cpu_memory_usage) for event in profile.events())

    assert allocated(dynamic_conv) < 2.5 * size < allocated(dynamic_conv_eager)


def test_autocast_leaves_the_norms_in_float32():
    x, params, *norms = (t.float() for t in inputs(2, 8, 5, 4, 6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = dynamic_conv(x, params, *norms)
        half = dynamic_conv(x, params.bfloat16(), *norms, out_dtype=torch.bfloat16)
    assert out.dtype == torch.float32
    torch.testing.assert_close(half, out.bfloat16(), rtol=0, atol=0)
    want = dynamic_conv(x.bfloat16(), params.bfloat16(), *norms)
    torch.testing.assert_close(out, want, rtol=0, atol=0)


@pytest.mark.parametrize(("change", "text"), [
    (dict(x=torch.zeros(2, 4)), r"x must be \[N, in, S\] and the norms' parameters vectors"),
    (dict(norm_in_weight=torch.zeros(0)), "norms' parameters vectors"),
    (dict(norm_out_bias=torch.zeros(4)), "norms of 3 and 5 channels have biases of 3 and 4"),
    (dict(params=torch.zeros(2, 26)), r"params must be \[2, 27\] for x \[2, 4, 6\]"),
    (dict(params=torch.zeros(2, 27).half()), r"x is torch\.float32, params torch\.float16; they"),
    (dict(norm_in_bias=torch.zeros(3).half()), "float32 norms beside a half type"),
    (dict(params=torch.zeros(2, 27, device="meta")), "params on meta"),
])
def test_bad_input(change, text):
    given_ = dict(x=torch.zeros(2, 4, 6), params=torch.zeros(2, 27), norm_in_weight=torch.ones(3),
                  norm_in_bias=torch.zeros(3), norm_out_weight=torch.ones(5),
                  norm_out_bias=torch.zeros(5))
    with pytest.raises(ValueError, match=text):
        dynamic_conv(**{**given_, **change})


# ------------------------------------------------------------------ the kernels
@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "c", "s", "feat", "out"), [
    (3, 40, 9, 16, 24),    # regions of 3 x 3, channels beyond a chunk
    (2, 64, 49, 64, 64),   # Sparse R-CNN's tile
    (1, 33, 70, 20, 50),   # rows in tiles, nothing a power of two
    (1, 16, 196, 16, 40),  # 14 x 14
    (1, 20, 17, 128, 300),  # output channels in chunks in forward, too
    (8, 7, 1, 12, 13),     # smaller than any tile
])
def test_kernel(kernel_device, dtype, n, c, s, feat, out):
    tensors = inputs(n, c, s, feat, out, dtype, kernel_device, decided=dtype != torch.float32)
    hold(tensors, torch.randn(n, s, out).to(kernel_device, dtype), dtype)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("s", [9, 70])
def test_kernel_under_autocast(kernel_device, s):
    """Parameters in bf16 from a linear layer; region and norms stay in float32."""
    tensors = inputs(2, 24, s, 16, 32, torch.float32, kernel_device, decided=True)
    tensors[1] = tensors[1].detach().bfloat16().requires_grad_()
    grad = torch.randn(2, s, 32, device=kernel_device)
    with torch.autocast(kernel_device.type, dtype=torch.bfloat16):
        hold(tensors, grad, torch.bfloat16)
        hold(tensors, grad, torch.bfloat16, out_dtype=torch.bfloat16)


@pytest.mark.kernel
@pytest.mark.parametrize("s", [9, 40])  # 40 rows are several tiles in float32
def test_kernel_takes_strided_and_expanded_input(kernel_device, s):
    x, params, *norms = inputs(2, 20, s, 16, 24, torch.float32, kernel_device)
    twin = [t.detach().clone().requires_grad_() for t in (x, params, *norms)]

    channels_last = x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_()
    column_major = params.detach().t().contiguous().t().requires_grad_()
    out = dynamic_conv(channels_last, column_major, *norms)
    out.sum().backward()  # the gradient is expanded, too
    with fastdet.backend("torch"):
        want = dynamic_conv(*twin)
        want.sum().backward()
    torch.testing.assert_close(out, want, atol=1e-5, rtol=1e-4)
    assert channels_last.grad.stride() == channels_last.stride()
    for mine, theirs in zip((channels_last, column_major, *norms), twin):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=2e-5, rtol=1e-4)

    rows = torch.cat([params, params], 1)[:, : params.shape[1]]  # rows apart
    one = dynamic_conv(x[:1].expand(2, -1, -1), rows, *norms)
    torch.testing.assert_close(one, dynamic_conv(x[[0, 0]], params, *norms))


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("s", [5, 40])
@pytest.mark.parametrize("needs", [(0,), (1,), (2,), (3, 5), (0, 4), (1, 5), (0, 1)])
def test_kernel_gives_the_gradients_asked_for(kernel_device, needs, s):
    tensors = [t.detach() for t in inputs(2, 20, s, 16, 24, torch.float32, kernel_device)]
    wanted = [tensors[i].requires_grad_() for i in needs]
    grad = torch.randn(2, s, 24, device=kernel_device)
    got = torch.autograd.grad(dynamic_conv(*tensors), wanted, grad)
    with fastdet.backend("torch"):
        want = torch.autograd.grad(dynamic_conv(*tensors), wanted, grad)
    for mine, theirs in zip(got, want):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("n", "s"), [(0, 9), (2, 0)])
def test_kernel_with_nothing_to_do(kernel_device, n, s):
    tensors = inputs(n, 20, s, 16, 24, torch.float32, kernel_device)
    out, *grads = run(tensors, torch.zeros(n, s, 24, device=kernel_device))
    assert out.shape == (n, s, 24)
    for grad, tensor in zip(grads, tensors):
        assert torch.equal(grad, torch.zeros_like(tensor))


@pytest.mark.kernel
def test_kernel_gradients_do_not_vary(kernel_device):
    tensors = inputs(3, 20, 20, 16, 24, torch.float32, kernel_device)
    grad = torch.randn(3, 20, 24, device=kernel_device)
    for first, again in zip(run(tensors, grad), run(tensors, grad)):
        assert torch.equal(first, again)


@pytest.mark.kernel
def test_kernel_commutes_with_a_permutation_of_the_proposals(kernel_device):
    x, params, *norms = inputs(4, 20, 9, 16, 24, torch.float32, kernel_device)
    order = [2, 0, 3, 1]
    assert torch.equal(dynamic_conv(x[order], params[order], *norms),
                       dynamic_conv(x, params, *norms)[order])


@pytest.mark.kernel
def test_kernel_refuses_what_it_cannot(kernel_device):
    with pytest.raises(fastdet.BackendError, match="not float64"):
        dynamic_conv(*inputs(1, 4, 3, 4, 4, torch.float64, kernel_device))
    with pytest.raises(fastdet.BackendError, match="up to 128 inner channels, not 129"):
        dynamic_conv(*inputs(1, 4, 3, 129, 4, torch.float32, kernel_device))


@pytest.mark.kernel
@pytest.mark.parametrize("s", [9, 20])
def test_opcheck(kernel_device, s):
    tensors = inputs(2, 20, s, 16, 24, torch.float32, kernel_device)
    torch.library.opcheck(op_module._forward.traced, (*tensors, 1e-5, 1e-5, torch.float32))


@pytest.mark.kernel
def test_compiles_whole_for_changing_numbers_of_proposals(kernel_device):
    def layer(*tensors):
        return dynamic_conv(tensors[0] * 2, *tensors[1:]).tanh()

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (2, 3):
        tensors = inputs(n, 20, 9, 16, 24, torch.float32, kernel_device)
        grad = torch.randn(n, 9, 24, device=kernel_device)
        for mine, theirs in zip(run(tensors, grad, compiled), run(tensors, grad, layer)):
            torch.testing.assert_close(mine, theirs)
