"""CARAFE: the reference against its definition, the kernels against fp64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastdet
from fastdet.kernels.carafe import carafe
from fastdet.kernels.carafe import op as op_module
from fastdet.kernels.carafe.reference import normalized_masks
from fastdet.testing import assert_accurate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def inputs(b, c, h, w, k, g, s, normalize, dtype=torch.float64, device="cpu"):
    shape = (b, g * k * k * s * s, h, w) if normalize else (b, g * k * k, h * s, w * s)
    x = torch.randn(b, c, h, w, dtype=torch.float64).to(device, dtype)
    masks = torch.randn(shape, dtype=torch.float64)
    if not normalize:
        masks = masks / k
    return x.requires_grad_(), masks.to(device, dtype).requires_grad_()


def run(x, masks, grad, *args, **kwargs):
    out = carafe(x, masks, *args, **kwargs)
    return (out, *torch.autograd.grad(out, (x, masks), grad))


# ------------------------------------------------------------------ the reference
@pytest.mark.parametrize(("k", "g", "s"), [(3, 1, 2), (5, 2, 1), (3, 3, 3)])
def test_reference_is_the_definition(k, g, s):
    b, c, h, w = 2, 6, 4, 3
    x, masks = inputs(b, c, h, w, k, g, s, False)
    want = torch.zeros(b, c, h * s, w * s, dtype=torch.float64)
    for channel in range(c):
        group = channel // (c // g)
        for y in range(h * s):
            for z in range(w * s):
                for tap in range(k * k):
                    sy, sx = y // s + tap // k - k // 2, z // s + tap % k - k // 2
                    if 0 <= sy < h and 0 <= sx < w:
                        want[:, channel, y, z] += (masks[:, group * k * k + tap, y, z]
                                                   * x[:, channel, sy, sx]).detach()
    torch.testing.assert_close(carafe(x, masks, k, g, s), want)


def test_normalized_is_shuffle_and_softmax():
    x, raw = inputs(1, 4, 3, 5, 3, 2, 2, True)
    masks = normalized_masks(raw, 3, 2, 2)
    torch.testing.assert_close(masks.view(1, 2, 9, 6, 10).sum(2),
                               torch.ones(1, 2, 6, 10, dtype=torch.float64))
    torch.testing.assert_close(carafe(x, raw, 3, 2, 2, normalize=True), carafe(x, masks, 3, 2, 2))


@pytest.mark.parametrize("normalize", [False, True])
def test_reference_gradcheck(normalize):
    x, masks = inputs(1, 2, 3, 2, 3, 2, 2, normalize)
    assert torch.autograd.gradcheck(
        lambda a, b: carafe(a, b, 3, 2, 2, normalize=normalize), (x, masks))


@given(st.sampled_from([3, 5, 7]), st.integers(1, 4), st.integers(1, 6), st.integers(1, 6))
def test_weight_one_on_the_middle_tap_is_nearest_upsampling(k, s, h, w):
    x = torch.randn(1, 2, h, w)
    masks = torch.zeros(1, k * k, h * s, w * s)
    masks[:, k * k // 2] = 1
    want = torch.nn.functional.interpolate(x, scale_factor=s, mode="nearest")
    assert torch.equal(carafe(x, masks, k, 1, s), want)


@pytest.mark.parametrize(("change", "text"), [
    (dict(kernel_size=4), "kernel_size must be odd"),
    (dict(group_size=3), "4 channels do not divide into 3 groups"),
    (dict(masks=torch.zeros(1, 9, 3, 5)), r"masks must be \[1, 9, 6, 10\] for features"),
    (dict(features=torch.zeros(4, 3, 5)), r"must be floating-point \[B, C, H, W\]"),
])
def test_bad_input(change, text):
    given_ = dict(features=torch.zeros(1, 4, 3, 5), masks=torch.zeros(1, 9, 6, 10), kernel_size=3)
    with pytest.raises(ValueError, match=text):
        carafe(**{**given_, **change})


# ------------------------------------------------------------------ the kernels
@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("b", "c", "h", "w", "k", "g", "s", "normalize"), [
    (1, 20, 3, 19, 5, 1, 2, True),   # a tail in the pixels and in the channels
    (2, 8, 3, 5, 3, 2, 2, False),
    (1, 4, 2, 13, 3, 1, 3, True),    # a scale that is no power of two
    (1, 4, 2, 5, 3, 1, 4, True),
    (1, 4, 3, 7, 7, 1, 1, False),
    (1, 64, 2, 19, 3, 2, 2, True),   # full blocks of channels, two runs of pixels
])
def test_kernel(kernel_device, dtype, b, c, h, w, k, g, s, normalize):
    x, masks = inputs(b, c, h, w, k, g, s, normalize, dtype, kernel_device)
    grad = torch.randn(b, c, h * s, w * s, device=kernel_device).to(dtype)
    args, kwargs = (k, g, s), dict(normalize=normalize)
    got = run(x, masks, grad, *args, **kwargs)
    with fastdet.backend("torch"):
        torchs = run(x, masks, grad, *args, **kwargs)
        wide = [t.detach().double().requires_grad_() for t in (x, masks)]
        truth = run(*wide, grad.double(), *args, **kwargs)
    for name, mine, theirs, exact in zip(("out", "dx", "dmask"), got, torchs, truth):
        assert mine.dtype == dtype
        assert_accurate(name, mine, theirs, exact, dtype)


@pytest.mark.kernel
def test_kernel_takes_any_strides_and_mixed_types(kernel_device):
    x, masks = inputs(1, 4, 3, 5, 3, 1, 2, True, torch.float16, kernel_device)
    want = carafe(x, masks, 3, normalize=True)
    last = x.detach().contiguous(memory_format=torch.channels_last)
    sliced = torch.stack([masks, masks], -1)[..., 0]
    out = carafe(last, sliced, 3, normalize=True)
    assert torch.equal(out, want)
    assert out.is_contiguous(memory_format=torch.channels_last)
    grad = torch.ones((), device=kernel_device, dtype=torch.float16).expand_as(want)
    torch.testing.assert_close(torch.autograd.grad(want, x, grad, retain_graph=True)[0],
                               torch.autograd.grad(want, x, grad.contiguous())[0])
    mixed = carafe(x, masks.float(), 3, normalize=True)
    assert mixed.dtype == torch.float16
    torch.testing.assert_close(mixed, want)


@pytest.mark.kernel
@pytest.mark.parametrize("which", [0, 1])
def test_kernel_computes_the_gradient_that_is_wanted(kernel_device, which):
    pair = inputs(1, 4, 3, 5, 3, 1, 2, True, torch.float32, kernel_device)
    both = torch.autograd.grad(carafe(*pair, 3, normalize=True).sum(), pair)
    pair[1 - which].requires_grad_(False)
    one = torch.autograd.grad(carafe(*pair, 3, normalize=True).sum(), pair[which])[0]
    assert torch.equal(one, both[which])


@pytest.mark.kernel
def test_kernel_with_nothing(kernel_device):
    x, masks = inputs(0, 4, 3, 5, 3, 1, 2, True, torch.float32, kernel_device)
    out, dx, dmask = run(x, masks, torch.zeros(0, 4, 6, 10, device=kernel_device), 3,
                         normalize=True)
    assert out.shape == (0, 4, 6, 10)
    assert dx.shape == x.shape
    assert dmask.shape == masks.shape


@pytest.mark.kernel
def test_kernel_refuses_what_it_cannot(kernel_device):
    x, masks = inputs(1, 4, 3, 5, 3, 1, 2, True, torch.float64, kernel_device)
    with pytest.raises(fastdet.BackendError, match="not float64"):
        carafe(x, masks, 3, normalize=True)
    large = torch.zeros(1, device=kernel_device).expand(1, 2**15, 2**8, 2**8)
    with pytest.raises(fastdet.BackendError, match=r"fewer than 2\^31 numbers"):
        carafe(large, large[:, :9], 3, scale_factor=1)


@pytest.mark.kernel
def test_opcheck(kernel_device):
    x, masks = inputs(1, 4, 3, 5, 3, 1, 2, True, torch.float32, kernel_device)
    torch.library.opcheck(op_module._forward.traced, (x, masks, 3, 1, 2, True))
