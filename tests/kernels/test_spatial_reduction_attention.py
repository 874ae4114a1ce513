"""Spatial-reduction attention: reference against MMDetection's form, kernels against fp64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastdet
from benchmarks.operators.spatial_reduction_attention import spatial_reduction_attention_eager
from fastdet.kernels.spatial_reduction_attention import (
    can_run_spatial_reduction_attention,
    spatial_reduction_attention,
)
from fastdet.kernels.spatial_reduction_attention import (
    op as op_module,
)
from fastdet.kernels.spatial_reduction_attention.reference import (
    spatial_reduction_attention_reference,
)
from fastdet.testing import assert_accurate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def inputs(b, n_q, n_k, heads, d, dtype=torch.float64, device="cpu"):
    q = torch.randn(b, n_q, heads * d, dtype=torch.float64).to(device, dtype)
    kv = torch.randn(b, n_k, 2 * heads * d, dtype=torch.float64).to(device, dtype)
    return q.requires_grad_(), kv.requires_grad_()


def run(q, kv, heads, grad, **kwargs):
    out = spatial_reduction_attention(q, kv, heads, **kwargs)
    return (out, *torch.autograd.grad(out, (q, kv), grad))


# ------------------------------------------------------------------ the reference
@given(st.integers(1, 2), st.integers(1, 9), st.integers(1, 7), st.sampled_from([1, 2, 5]))
def test_reference_is_mmdetections_form(b, n_q, n_k, heads):
    q, kv = inputs(b, n_q, n_k, heads, 4)
    want, weights = spatial_reduction_attention_eager(q, kv, heads, 0.5)
    torch.testing.assert_close(spatial_reduction_attention_reference(q, kv, heads, 0.5), want)
    torch.testing.assert_close(weights.sum(-1), torch.ones(b, n_q, dtype=torch.float64))


@given(st.integers(1, 2), st.integers(1, 9), st.integers(1, 7), st.sampled_from([1, 2, 5]))
def test_the_cpu_path_is_the_definition(b, n_q, n_k, heads):
    q, kv = inputs(b, n_q, n_k, heads, 4)
    grad = torch.randn(b, n_q, heads * 4, dtype=torch.float64)
    want = spatial_reduction_attention_reference(q, kv, heads, 0.5)
    want = (want, *torch.autograd.grad(want, (q, kv), grad))
    for got, exact in zip(run(q, kv, heads, grad), want):
        torch.testing.assert_close(got, exact)


@pytest.mark.parametrize("put", [float("nan"), float("inf"), float("-inf")])
def test_a_query_that_is_not_finite_shows_on_a_cpu(put):
    """torch's fused attention makes finite numbers of it."""
    q, kv = (t.detach() for t in inputs(2, 5, 3, 2, 4, torch.float32))
    q[1, 2, 3] = put
    out = spatial_reduction_attention(q, kv, 2)
    shows = torch.zeros(2, 5, 8, dtype=torch.bool)
    shows[1, 2, :4] = True  # of one query's first head
    assert torch.equal(out.isfinite(), ~shows)


def test_reference_gradcheck():
    q, kv = inputs(2, 5, 3, 2, 4)
    assert torch.autograd.gradcheck(lambda a, b: spatial_reduction_attention(a, b, 2), (q, kv))


@given(st.permutations(range(6)))
def test_order_of_keys_does_not_matter(order):
    q, kv = inputs(1, 5, 6, 2, 4)
    torch.testing.assert_close(spatial_reduction_attention(q, kv, 2),
                               spatial_reduction_attention(q, kv[:, list(order)], 2))


def test_scores_are_never_in_memory():
    """At stage 1 of a PVT the scores would be 90 MB here; the peak stays near inputs and output."""
    q, kv = (t.float() for t in inputs(1, 22400, 1050, 1, 16))
    with torch.profiler.profile(profile_memory=True) as profile, torch.no_grad():
        spatial_reduction_attention(q, kv, 1)
    largest = max(event.self_cpu_memory_usage for event in profile.events())
    assert largest < 4 * q.numel() * q.element_size()


@pytest.mark.parametrize(("change", "text"), [
    (dict(kv=torch.zeros(1, 3, 8)), r"expected q \[B, N_q, C\] and kv \[B, N_k, 2C\]"),
    (dict(kv=torch.zeros(1, 3, 16).double()), "of one type on one device"),
    (dict(num_heads=3), "8 channels do not divide by 3 heads"),
    (dict(dropout_p=1.0), r"dropout_p must lie in \[0, 1\), got 1.0"),
])
def test_bad_input(change, text):
    given_ = dict(q=torch.zeros(1, 4, 8), kv=torch.zeros(1, 3, 16), num_heads=2)
    with pytest.raises(ValueError, match=text):
        spatial_reduction_attention(**{**given_, **change})


# ------------------------------------------------------------------ the kernels
@pytest.mark.parametrize(("queries", "tiles"), [(67200, 34), (16800, 68), (4200, 170), (1050, 272),
                                            (1, 1), (300, 10**6)])
@pytest.mark.parametrize("places", [1, 264, 396])
def test_splits_are_whole_waves(queries, tiles, places):
    """All queries once, and no time lost against the split that gives each place one program."""
    splits, rows = op_module._splits(queries, tiles, 64, places)
    assert rows % 64 == 0
    assert (splits - 1) * rows < queries <= splits * rows
    assert splits == 1 or rows >= 256

    def cost(splits, rows):
        return -(-splits * tiles // places) * (rows + 128)

    one_each = max(1, min(-(-places // tiles), queries // 256))
    rows_each = -(-queries // (64 * one_each)) * 64
    assert cost(splits, rows) <= cost(-(-queries // rows_each), rows_each)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("b", "n_q", "n_k", "heads", "d"), [
    (1, 140, 70, 2, 64),   # tails in queries and keys
    (2, 64, 64, 1, 32),    # whole tiles
    (1, 33, 5, 3, 24),     # fewer keys than a tile, a head that is no power of two
    (1, 600, 20, 1, 16),   # dK and dV split over the queries
    (1, 20, 40, 1, 128),
])
def test_kernel(kernel_device, monkeypatch, dtype, b, n_q, n_k, heads, d):
    monkeypatch.setattr(op_module, "num_sms", lambda device: 4)
    q, kv = inputs(b, n_q, n_k, heads, d, dtype, kernel_device)
    grad = torch.randn(b, n_q, heads * d, device=kernel_device).to(dtype)
    got = run(q, kv, heads, grad)
    with fastdet.backend("torch"):
        torchs = run(q, kv, heads, grad)
        wide = [t.detach().double().requires_grad_() for t in (q, kv)]
        truth = run(*wide, heads, grad.double())
    for name, mine, theirs, exact in zip(("out", "dq", "dkv"), got, torchs, truth):
        assert mine.dtype == dtype
        assert_accurate(name, mine, theirs, exact, dtype)


@pytest.mark.kernel
def test_kernel_takes_strided_and_expanded_input(kernel_device):
    q, kv = inputs(2, 20, 12, 2, 16, torch.float32, kernel_device)
    wide = torch.stack([q, q], -1)[..., 0].detach().requires_grad_()
    out = spatial_reduction_attention(wide, kv[:1].expand(2, -1, -1), 2)
    out.sum().backward()  # the gradient is expanded, too
    with fastdet.backend("torch"):
        twin = wide.detach().clone().requires_grad_()
        want = spatial_reduction_attention(twin, kv[:1].expand(2, -1, -1), 2)
        want.sum().backward()
    torch.testing.assert_close(out, want)
    torch.testing.assert_close(wide.grad, twin.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.kernel
def test_kernel_with_no_queries(kernel_device):
    q, kv = inputs(2, 0, 3, 2, 16, torch.float32, kernel_device)
    out, dq, dkv = run(q, kv, 2, torch.zeros(2, 0, 32, device=kernel_device))
    assert out.shape == dq.shape == (2, 0, 32)
    assert torch.equal(dkv, torch.zeros_like(kv))


@pytest.mark.kernel
def test_kernel_gradients_do_not_vary(kernel_device, monkeypatch):
    monkeypatch.setattr(op_module, "num_sms", lambda device: 4)
    q, kv = inputs(1, 600, 20, 1, 16, torch.float32, kernel_device)
    grad = torch.randn(1, 600, 16, device=kernel_device)
    for first, again in zip(run(q, kv, 1, grad), run(q, kv, 1, grad)):
        assert torch.equal(first, again)


def test_can_run_says_why_not():
    def reason(d, dropout_p=0.0, dtype=torch.bfloat16):
        q = torch.zeros(1, 1, 2 * d, dtype=dtype)
        return can_run_spatial_reduction_attention(q, q, 2, dropout_p)

    assert reason(128) is None
    assert reason(64, 0.1) is None
    assert "at most 64 channels with dropout, not 72" in reason(72, 0.1)
    assert "8 to 128 channels, not 4" in reason(4)
    assert "not float64" in reason(64, dtype=torch.float64)


@pytest.mark.kernel
def test_kernel_dropout(kernel_device):
    """The weights that survive are those of a mask, and the backward has the same mask."""
    n_q, n_k = 64, 32
    q, _ = inputs(1, n_q, n_k, 1, 32, torch.float32, kernel_device)
    identity = torch.eye(n_k, device=kernel_device)[None]
    kv = torch.cat([torch.randn_like(identity), identity], -1).requires_grad_()
    torch.manual_seed(3)
    dropped = spatial_reduction_attention(q, kv, 1, dropout_p=0.25)  # with v = 1: the weights
    whole = spatial_reduction_attention(q, kv, 1)
    kept = dropped != 0
    torch.testing.assert_close(dropped, torch.where(kept, whole / 0.75, 0.0))
    assert abs(float(kept.float().mean()) - 0.75) < 0.05
    torch.manual_seed(3)
    assert torch.equal(spatial_reduction_attention(q, kv, 1, dropout_p=0.25), dropped)

    grad = torch.randn_like(dropped)
    got = torch.autograd.grad(dropped, (q, kv), grad)
    with fastdet.backend("torch"):
        weights = (q @ kv[..., :n_k].transpose(1, 2) * 32 ** -0.5).softmax(-1)
        want = torch.autograd.grad((weights * kept / 0.75) @ kv[..., n_k:], (q, kv), grad)
    for mine, theirs in zip(got, want):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.kernel
def test_kernel_refuses_what_it_cannot(kernel_device):
    q, kv = inputs(1, 4, 3, 1, 16, torch.float64, kernel_device)
    with pytest.raises(fastdet.BackendError, match="not float64"):
        spatial_reduction_attention(q, kv, 1)


@pytest.mark.kernel
def test_opcheck(kernel_device):
    q, kv = inputs(1, 20, 6, 2, 16, torch.float32, kernel_device)
    torch.library.opcheck(op_module._forward.traced, (q, kv, None, 2, 0.25, 0.0))


@pytest.mark.kernel
def test_compiles_whole_for_changing_sizes(kernel_device):
    def layer(q, kv):
        return spatial_reduction_attention(q * 2, kv, 2).relu()

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for n_q in (20, 33):
        q, kv = inputs(1, n_q, 6, 2, 16, torch.float32, kernel_device)
        torch.testing.assert_close(compiled(q, kv), layer(q, kv))
