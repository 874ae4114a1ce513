"""Window attention: the CPU path against the definition, the kernels against the CPU path."""

import itertools
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastdet
from fastdet.kernels.window_attention import can_run_window_attention, cpu, window_attention
from fastdet.kernels.window_attention import op as op_module
from fastdet.kernels.window_attention.reference import standard_index, window_attention_reference
from fastdet.testing import assert_accurate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)

# H, W, window, shift, heads, d, B: whole windows, padding, maps below the window, long ones.
SHAPES = [
    (14, 7, 7, 0, 2, 16, 1), (5, 9, 7, 3, 2, 32, 2), (4, 5, 7, 3, 1, 24, 2),
    (7, 7, 7, 3, 1, 32, 1), (9, 16, 7, 3, 1, 16, 1), (4, 6, 2, 1, 2, 16, 1),
    (5, 4, 3, 1, 1, 24, 2), (9, 8, 8, 4, 1, 64, 1), (13, 7, 12, 6, 1, 32, 1),
    (6, 11, 10, 7, 2, 16, 1),
]
# Heads of several chunks of channels, the last one not always full; and what half types have in
# one: heads of 64 and 128, also in long windows.
WIDE = [(3, 5, 3, 1, 1, 96, 2), (7, 9, 7, 3, 1, 40, 1), (4, 8, 8, 4, 1, 128, 1)]
HALF = [(5, 9, 9, 4, 1, 64, 1), (3, 7, 16, 8, 1, 16, 1)]


def inputs(h, w, window, heads, d, batch, dtype=torch.float64, device="cpu"):
    """qkv, table, pad_value and an output gradient; values that ``dtype`` can hold."""
    shapes = [(batch, h * w, 3 * heads * d), ((2 * window - 1) ** 2, heads), (3 * heads * d,),
              (batch, h * w, heads * d)]
    return [torch.randn(s).to(dtype).to(device) for s in shapes]


def run(form, tensors, hw, needs=(True, True, True), **kwargs):
    """Output and the gradients of what ``needs`` names among qkv, table and pad_value."""
    *leaves, grad = tensors
    leaves = [x.detach().clone().requires_grad_(n) for x, n in zip(leaves, needs)]
    out = form(leaves[0], leaves[1], hw, pad_value=leaves[2], **kwargs)
    wanted = [x for x, n in zip(leaves, needs) if n]
    grads = torch.autograd.grad(out, wanted, grad.to(out.dtype), allow_unused=True)
    return out.detach(), *(torch.zeros_like(x) if g is None else g for g, x in zip(grads, wanted))


def close(got, want, atol=1e-12):
    assert len(got) == len(want)
    for g, x in zip(got, want):
        torch.testing.assert_close(g, x, rtol=1e-10, atol=atol)


# ------------------------------------------------------------------ the CPU path
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_cpu_path_is_the_definition(shape):
    h, w, window, shift, heads, d, batch = shape
    tensors = inputs(h, w, window, heads, d, batch)
    for scale in (None, 0.3):
        kwargs = {"num_heads": heads, "window_size": window, "shift": shift, "scale": scale}
        close(run(window_attention, tensors, (h, w), **kwargs),
              run(window_attention_reference, tensors, (h, w), **kwargs))


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("cached", [1, 2**13, 2**20])
def test_without_a_backward_a_few_windows_go_at_a_time(monkeypatch, cached, shift):
    monkeypatch.setattr(cpu, "CACHED_BYTES", cached)
    qkv, table, pad, _ = inputs(11, 8, 3, 2, 4, 2)
    kwargs = {"num_heads": 2, "window_size": 3, "shift": shift, "pad_value": pad}
    want = window_attention_reference(qkv, table, (11, 8), **kwargs)
    with torch.no_grad():
        got = window_attention(qkv, table.requires_grad_(), (11, 8), **kwargs)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    with_backward = window_attention(qkv, table, (11, 8), **kwargs)
    torch.testing.assert_close(got, with_backward.detach(), rtol=1e-13, atol=1e-13)


def test_pad_value_defaults_to_zeros():
    qkv, table, _, _ = inputs(5, 4, 3, 2, 8, 2)
    kwargs = {"num_heads": 2, "window_size": 3, "shift": 1}
    got = window_attention(qkv, table, (5, 4), **kwargs)
    assert torch.equal(got, window_attention(
        qkv, table, (5, 4), pad_value=qkv.new_zeros(48), **kwargs))
    torch.testing.assert_close(got, window_attention_reference(qkv, table, (5, 4), **kwargs))


@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
@pytest.mark.parametrize("shape", [(3, 5, 2, 1), (2, 3, 4, 2), (4, 4, 2, 0)])
def test_gradcheck(shape, dropout_p):
    h, w, window, shift = shape
    qkv, table, pad, _ = (x.requires_grad_() for x in inputs(h, w, window, 2, 2, 1))

    def form(qkv, table, pad):
        torch.manual_seed(3)
        return window_attention(qkv, table, (h, w), num_heads=2, window_size=window, shift=shift,
                                pad_value=pad, dropout_p=dropout_p)

    assert torch.autograd.gradcheck(form, (qkv, table, pad))


def test_standard_index_and_a_users_own():
    w = 3
    index = standard_index(w)
    for i in range(w * w):
        for j in range(w * w):
            assert index[i, j] == (i // w - j // w + w - 1) * (2 * w - 1) + i % w - j % w + w - 1
    tensors = inputs(4, 5, w, 2, 4, 1)
    kwargs = {"num_heads": 2, "window_size": w, "shift": 1}
    own = torch.randint((2 * w - 1) ** 2, (w * w, w * w))
    close(run(window_attention, tensors, (4, 5), relative_position_index=own, **kwargs),
          run(window_attention_reference, tensors, (4, 5), relative_position_index=own, **kwargs))
    close(run(window_attention, tensors, (4, 5), relative_position_index=index, **kwargs),
          run(window_attention, tensors, (4, 5), **kwargs))


@given(down=st.integers(1, 3), across=st.integers(1, 3), window=st.integers(2, 4),
       seed=st.integers(0, 99))
def test_equivariant_to_permuting_windows(down, across, window, seed):
    """Whole windows without a shift do not see each other."""
    torch.manual_seed(seed)
    h, w = down * window, across * window
    qkv, table, _, _ = inputs(h, w, window, 2, 4, 1)
    order = torch.randperm(down * across)

    def permute(x):
        x = x.view(down, window, across, window, -1).transpose(1, 2).reshape(
            down * across, window, window, -1)[order]
        x = x.view(down, across, window, window, -1).transpose(1, 2)
        return x.reshape(1, h * w, -1)

    kwargs = {"num_heads": 2, "window_size": window}
    torch.testing.assert_close(
        window_attention(permute(qkv), table, (h, w), **kwargs),
        permute(window_attention(qkv, table, (h, w), **kwargs)), rtol=1e-12, atol=1e-12)


@given(h=st.integers(1, 9), w=st.integers(1, 9), window=st.integers(1, 5), data=st.data())
def test_equal_values_come_back(h, w, window, data):
    """Weights of a query sum to one, padded keys included."""
    shift = data.draw(st.integers(0, window - 1))
    qkv, table, pad, _ = inputs(h, w, window, 2, 4, 2)
    value = torch.randn(8, dtype=torch.float64)
    qkv[..., 16:], pad[16:] = value, value
    out = window_attention(qkv, table, (h, w), num_heads=2, window_size=window, shift=shift,
                           pad_value=pad)
    torch.testing.assert_close(out, value.expand_as(out), rtol=1e-12, atol=1e-12)


def test_half_types_follow_autocast():
    """A half qkv with a float32 table: float32 scores after the bias, half products."""
    for dtype in (torch.float16, torch.bfloat16):
        qkv, table, pad, grad = inputs(5, 9, 7, 2, 16, 1, dtype)
        kwargs = {"num_heads": 2, "window_size": 7, "shift": 3}
        mine = run(window_attention, (qkv, table.float(), pad, grad), (5, 9), **kwargs)
        theirs = run(window_attention_reference, (qkv, table.float(), pad, grad), (5, 9), **kwargs)
        truth = run(window_attention_reference, [x.double() for x in (qkv, table, pad, grad)],
                    (5, 9), **kwargs)
        for name, g, e, t in zip(("out", "dqkv", "dtable", "dpad"), mine, theirs, truth):
            assert g.dtype == e.dtype
            assert_accurate(name, g, e, t, dtype)


def test_autocast_casts_float32_as_a_product_would():
    qkv, table, pad, _ = inputs(5, 4, 3, 2, 8, 1, torch.float32)
    kwargs = {"num_heads": 2, "window_size": 3, "shift": 1, "pad_value": pad}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = window_attention(qkv, table, (5, 4), **kwargs)
        assert window_attention(qkv.double(), table.double(), (5, 4), **kwargs).dtype \
            == torch.float64
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, window_attention(qkv.bfloat16(), table, (5, 4), **kwargs))


@pytest.mark.parametrize("save", [True, False])
def test_opcheck_of_the_cpu_path(save):
    qkv, table, pad, _ = inputs(4, 5, 3, 1, 4, 1, torch.float32)
    bias = table[standard_index(3)][..., 0][None].contiguous()
    leaves = [x.requires_grad_(save) for x in (qkv, bias, pad)]
    torch.library.opcheck(cpu._forward.traced, (*leaves, 4, 5, 1, 3, 1, 0.5, 0.0, save))


def test_empty_batch():
    tensors = inputs(4, 5, 3, 2, 8, 0)
    out, dqkv, dtable, dpad = run(window_attention, tensors, (4, 5), num_heads=2, window_size=3)
    assert out.shape == (0, 20, 16)
    assert dqkv.shape == (0, 20, 48)
    assert not dtable.any()
    assert not dpad.any()


def test_compiles_with_changing_sizes():
    torch._dynamo.reset()
    form = torch.compile(window_attention, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=False, recompile_limit=4):
        for h, w in [(5, 9), (8, 13), (11, 4), (17, 19), (6, 23), (7, 31)]:
            tensors = inputs(h, w, 3, 2, 4, 2)
            kwargs = {"num_heads": 2, "window_size": 3, "shift": 1}
            close(run(form, tensors, (h, w), **kwargs),
                  run(window_attention, tensors, (h, w), **kwargs))


@pytest.mark.parametrize(("change", "message"), [
    ({"qkv": torch.zeros(1, 20)}, "qkv must be a floating-point [B, H*W, 3C]"),
    ({"qkv": torch.zeros(1, 20, 48, dtype=torch.int64)}, "got torch.int64 [1, 20, 48]"),
    ({"hw": (5, 5)}, "qkv has 20 tokens, but hw=(5, 5) makes 25"),
    ({"hw": (-4, -5)}, "hw must be two positive sizes (H, W), got (-4, -5)"),
    ({"num_heads": 5}, "48, must be a multiple of 3 * num_heads = 15"),
    ({"num_heads": 0}, "48, must be a multiple of 3 * num_heads = 0"),
    ({"window_size": 0}, "window_size must be positive, got 0"),
    ({"shift": 3}, "shift must lie in [0, 3), got 3"),
    ({"shift": -1}, "shift must lie in [0, 3), got -1"),
    ({"relative_position_bias_table": torch.zeros(49, 2)}, "must be [25, 2], got [49, 2]"),
    ({"relative_position_bias_table": torch.zeros(25, 2).long()}, "got torch.int64 on cpu"),
    ({"pad_value": torch.zeros(16)}, "pad_value must be [48], got [16]"),
    ({"pad_value": torch.zeros(48).int()}, "pad_value must be floating-point on cpu"),
    ({"dropout_p": 1.5}, "dropout_p must lie in [0, 1], got 1.5"),
    ({"relative_position_index": torch.zeros(9, 9)}, "must be int64 [9, 9], got torch.float32"),
    ({"relative_position_index": torch.zeros(4, 4).long()}, "[9, 9], got torch.int64 [4, 4]"),
])
def test_bad_arguments(change, message):
    call = {"qkv": torch.zeros(1, 20, 48), "relative_position_bias_table": torch.zeros(25, 2),
            "hw": (4, 5), "num_heads": 2, "window_size": 3, **change}
    with pytest.raises(ValueError, match=re.escape(message)):
        window_attention(**call)


def test_can_run_says_why_not():
    def reason(dtype=torch.float32, d=32, window=7, index=None, dropout_p=0.0):
        return can_run_window_attention(torch.zeros(1, 1, 6 * d, dtype=dtype), window, 2, index,
                                        dropout_p)

    assert reason() is None
    assert "not float64" in reason(dtype=torch.float64)
    assert "16 to 128 channels, not 8" in reason(d=8)
    assert "16 to 128 channels, not 136" in reason(d=136)
    half, full = torch.bfloat16, torch.float32
    for d, window, dtype in ((128, 8, full), (32, 12, full), (64, 12, half), (32, 16, half)):
        assert reason(dtype, d, window) is None
    assert "at most 12 tokens a side in float32, not 13" in reason(full, 16, 13)
    assert "at most 32 channels in torch.float32 windows of 12 tokens" in reason(full, 40, 12)
    assert "at most 64 channels in torch.bfloat16 windows of 9 tokens" in reason(half, 72, 9)
    assert "at most 32 channels in torch.bfloat16 windows of 13 tokens" in reason(half, 64, 13)
    assert reason(half, 128, dropout_p=0.1) is None
    assert "float32 heads of at most 32 channels with dropout, not 40" in reason(d=40, dropout_p=.1)
    assert "2 to 16 tokens a side, not 17" in reason(window=17)
    assert "standard relative_position_index" in reason(index=standard_index(7))


# ------------------------------------------------------------------ dropout, both backends
def _dropout_weights(device, dropout_p, dtype=torch.float32):
    """The weights themselves: equal scores, and values that are the identity of a window."""
    window, d, batch = 4, 16, 3
    qkv = torch.zeros(batch, 16 * 4, 3, d, dtype=dtype, device=device)
    place = (torch.arange(8)[:, None] % 4 * 4 + torch.arange(8) % 4).flatten()
    qkv[:, :, 2] = torch.eye(16)[place].to(dtype)
    table = torch.zeros((2 * window - 1) ** 2, 1, device=device)
    qkv = qkv.flatten(2).requires_grad_()
    out = window_attention(qkv, table, (8, 8), num_heads=1, window_size=window,
                           dropout_p=dropout_p)
    return qkv, out


def _check_dropout(device):
    p = 0.25
    torch.manual_seed(5)
    qkv, out = _dropout_weights(device, p)
    share = (out == 0).float().mean()  # of 3 * 64 * 16 = 3072 weights; sigma is 0.0078
    assert abs(share - p) < 0.03
    kept = out[out != 0]
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / 16 / (1 - p)))
    # dv of sum(out) is the column sum of the very weights that the forward used.
    (dqkv,) = torch.autograd.grad(out.sum(), qkv)
    torch.testing.assert_close(dqkv[..., 32], _column_sums(out.detach()))
    torch.manual_seed(5)
    assert torch.equal(_dropout_weights(device, p)[1], out)
    assert not torch.equal(_dropout_weights(device, p)[1], out)
    windows = out.detach().view(3, 2, 4, 2, 4, 16).transpose(2, 3).reshape(12, 16, 16) != 0
    assert len({tuple(w.flatten().tolist()) for w in windows}) == 12
    assert not _dropout_weights(device, 1.0)[1].any()


def _column_sums(weights):
    """``[B, 64]``: how much weight each token gives away in its 4 x 4 window of an 8 x 8 map."""
    b = weights.shape[0]
    sums = weights.view(b, 2, 4, 2, 4, 16).sum((2, 4)).view(b, 2, 2, 4, 4)
    return sums.transpose(2, 3).reshape(b, 64)


def test_dropout_of_the_reference():
    _check_dropout(torch.device("cpu"))


@pytest.mark.kernel
def test_dropout_of_the_kernels(kernel_device):
    _check_dropout(kernel_device)


@pytest.mark.kernel
@pytest.mark.parametrize("window", [2, 9])
def test_dropout_gradient_of_the_kernels(kernel_device, window):
    """For a fixed mask the gradient is that of the forward: compared along one direction."""
    tensors = inputs(3, 9, window, 1, 16, 1, torch.float32, kernel_device)
    leaves = [x.requires_grad_() for x in tensors[:3]]
    steps = [torch.randn_like(x) for x in leaves]

    def loss(t):
        torch.manual_seed(2)
        moved = [x + t * s for x, s in zip(leaves, steps)]
        out = window_attention(moved[0], moved[1], (3, 9), num_heads=1, window_size=window,
                               shift=window // 2, pad_value=moved[2], dropout_p=0.3)
        return (out.double() * tensors[3]).sum()

    grads = torch.autograd.grad(loss(0.0), leaves)
    slope = sum((g * s).sum() for g, s in zip(grads, steps))
    with torch.no_grad():
        measured = (loss(2e-3) - loss(-2e-3)) / 4e-3
    torch.testing.assert_close(slope.double(), measured.double(), rtol=2e-3, atol=2e-3)


# ------------------------------------------------------------------ the kernels
@pytest.mark.kernel
@pytest.mark.parametrize(("shape", "dtype"), [
    *itertools.product(SHAPES + WIDE, DTYPES), *itertools.product(HALF, [torch.bfloat16])], ids=str)
def test_kernels_are_accurate(kernel_device, poison, shape, dtype):
    h, w, window, shift, heads, d, batch = shape
    qkv, table, pad, grad = inputs(h, w, window, heads, d, batch, dtype, kernel_device)
    table = table.float()  # as under autocast
    kwargs = {"num_heads": heads, "window_size": window, "shift": shift}
    got = run(window_attention, (qkv, table, pad, grad), (h, w), **kwargs)
    with fastdet.backend("torch"):
        torchs = run(window_attention, (qkv, table, pad, grad), (h, w), **kwargs)
        truth = run(window_attention, [x.double() for x in (qkv, table, pad, grad)], (h, w),
                    **kwargs)
    for name, g, r, t in zip(("out", "dqkv", "dtable", "dpad"), got, torchs, truth):
        assert g.dtype == r.dtype
        assert_accurate(name, g, r, t, dtype)


@pytest.mark.kernel
@pytest.mark.parametrize("window", [3, 9])
def test_several_programs_walk_over_the_windows(kernel_device, monkeypatch, window):
    """Partial sums of many programs make the same gradients, every time the same."""
    monkeypatch.setattr(op_module, "num_sms", lambda device: 1)
    monkeypatch.setattr(op_module, "_config", lambda *a: op_module._Config(
        16, 16 if window == 3 else 64, 0 if window == 3 else 32, 16, 4, 1, 2))
    hw = (2 * window + 1, 2)  # three windows for two programs
    tensors = inputs(*hw, window, 1, 16, 1, torch.float32, kernel_device)
    kwargs = {"num_heads": 1, "window_size": window, "shift": 1}
    got = run(window_attention, tensors, hw, **kwargs)
    again = run(window_attention, tensors, hw, **kwargs)
    with fastdet.backend("torch"):
        want = run(window_attention, tensors, hw, **kwargs)
    for g, a, x in zip(got, again, want):
        assert torch.equal(g, a)
        torch.testing.assert_close(g, x, rtol=2e-5, atol=2e-5)


@pytest.mark.kernel
@pytest.mark.parametrize("window", [3, 9])
@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False),
                                   (False, False, True), (False, True, True)], ids=str)
def test_gradients_that_are_asked_for(kernel_device, poison, needs, window):
    tensors = inputs(4, 5, window, 1, 16, 1, torch.float32, kernel_device)
    kwargs = {"num_heads": 1, "window_size": window, "shift": 1}
    got = run(window_attention, tensors, (4, 5), needs=needs, **kwargs)
    with fastdet.backend("torch"):
        want = run(window_attention, tensors, (4, 5), needs=needs, **kwargs)
    assert len(got) == 1 + sum(needs)
    for g, x in zip(got, want):
        torch.testing.assert_close(g, x, rtol=2e-5, atol=2e-5)


@pytest.mark.kernel
def test_layouts(kernel_device, poison):
    """Strided qkv and table, expanded and transposed gradients, a pad_value that is a slice."""
    kwargs = {"num_heads": 1, "window_size": 3, "shift": 1}
    qkv, table, pad, grad = inputs(4, 5, 3, 1, 16, 2, torch.float32, kernel_device)
    strided = [torch.stack([x, x * 0 + float("nan")], -1)[..., 0] for x in (qkv, table, pad)]
    assert not any(x.is_contiguous() for x in strided)
    for g in (grad, grad.transpose(0, 1).contiguous().transpose(0, 1), grad[:1, :1, :1].expand(
            2, 20, 16)):
        results = []
        for leaves in ((qkv, table, pad), strided):
            leaves = [x.detach().requires_grad_() for x in leaves]
            out = window_attention(leaves[0], leaves[1], (4, 5), pad_value=leaves[2], **kwargs)
            results.append([out, *torch.autograd.grad(out, leaves, g)])
        with fastdet.backend("torch"):
            want = run(window_attention, (qkv, table, pad, g), (4, 5), **kwargs)
        for plain, odd, x in zip(*results, want):
            assert torch.equal(plain, odd)
            torch.testing.assert_close(plain, x, rtol=2e-5, atol=2e-5)


@pytest.mark.kernel
def test_no_pad_value_and_an_empty_batch(kernel_device, poison):
    for batch in (1, 0):
        qkv, table, _, grad = inputs(4, 5, 3, 1, 16, batch, torch.float32, kernel_device)
        results = []
        for name in ("triton", "torch"):
            with fastdet.backend(name):
                q, t = qkv.clone().requires_grad_(), table.clone().requires_grad_()
                out = window_attention(q, t, (4, 5), num_heads=1, window_size=3, shift=1)
                results.append([out, *torch.autograd.grad(out, (q, t), grad)])
        for g, x in zip(*results):
            torch.testing.assert_close(g, x, rtol=2e-5, atol=2e-5)


@pytest.mark.kernel
def test_scores_of_great_size(kernel_device):
    """No overflow: the softmax subtracts the maximum in every kernel."""
    for window in (3, 9):
        qkv, table, pad, grad = inputs(4, 5, window, 1, 16, 1, torch.float32, kernel_device)
        got = run(window_attention, (qkv * 100, table, pad, grad), (4, 5), num_heads=1,
                  window_size=window)
        assert all(torch.isfinite(g).all() for g in got)


@pytest.mark.kernel
def test_autocast(kernel_device):
    qkv, table, pad, _ = inputs(4, 5, 3, 1, 16, 1, torch.float32, kernel_device)
    kwargs = {"num_heads": 1, "window_size": 3, "pad_value": pad}
    with torch.autocast(kernel_device.type, dtype=torch.bfloat16):
        got = window_attention(qkv, table, (4, 5), **kwargs)
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, window_attention(qkv.bfloat16(), table, (4, 5), **kwargs))


@pytest.mark.kernel
@pytest.mark.parametrize("padded", [True, False])
def test_opcheck(kernel_device, padded):
    qkv, table, pad, _ = inputs(4, 5, 3, 1, 16, 1, torch.float32, kernel_device)
    leaves = [x.requires_grad_() for x in (qkv, table, pad)]
    torch.library.opcheck(op_module._forward.traced, (
        leaves[0], leaves[1], leaves[2] if padded else None, None, 4, 5, 1, 3, 1, 0.25, 0.0))


@pytest.mark.kernel
def test_compiled_with_changing_sizes(kernel_device):
    torch._dynamo.reset()
    form = torch.compile(window_attention, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(recompile_limit=4):
        for h, w in [(4, 5), (7, 3), (6, 10), (9, 11), (5, 13)]:
            tensors = inputs(h, w, 3, 1, 16, 1, torch.float32, kernel_device)
            kwargs = {"num_heads": 1, "window_size": 3, "shift": 1}
            close(run(form, tensors, (h, w), **kwargs),
                  run(window_attention, tensors, (h, w), **kwargs), atol=1e-6)


@pytest.mark.kernel
def test_refusals_are_errors_by_name_only(kernel_device):
    qkv, table, _, _ = inputs(4, 5, 3, 1, 8, 1, torch.float32, kernel_device)
    with pytest.raises(fastdet.BackendError, match="16 to 128 channels"):
        window_attention(qkv, table, (4, 5), num_heads=1, window_size=3)
    with fastdet.backend("auto"):
        assert window_attention(qkv, table, (4, 5), num_heads=1, window_size=3).shape == (1, 20, 8)


@pytest.mark.parametrize("card", [(7, 5), (8, 0), (9, 0), (10, 0), (12, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_launch_configs(dtype, card):
    """Every branch of the table: tiles hold a window, chunks hold a head."""
    areas, heads = [4, 9, 25, 36, 49, 64, 81, 100, 144, 256], [16, 24, 32, 64, 96, 128]
    for area, d, dropout_p in itertools.product(areas, heads, (0.0, 0.1)):
        for way, precision in itertools.product(("fwd", "bwd"), ("ieee", "tf32")):
            kind = op_module._kind(way, area, d, dtype, dropout_p)
            config = op_module._config(kind, area, d, dtype, card, precision)
            keys = config.block_n + config.rest
            assert area <= keys < max(17, area * 4 // 3 if area > 64 else 2 * area)
            assert config.num_warps in (1, 2, 4, 8, 16)
            assert d <= config.chunks(d) * config.block_d < 2 * d
            if kind in ("fwd", "bwd"):
                assert config.block_m == config.block_n
            else:
                assert config.rows(area) < area + 16
                assert config.chunks(d) == 1
