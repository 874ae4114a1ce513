"""The focal losses: definitions, gradients, the fused CPU pass and the kernels against fp64."""

import math

import pytest
import torch
import torch.nn.functional as F

import fastdet
from benchmarks.operators.focal_losses import sigmoid_focal_loss_eager
from fastdet.kernels.focal_losses import (
    cpu,
    gaussian_focal_loss,
    op,
    quality_focal_loss,
    sigmoid_focal_loss,
    softmax_focal_loss,
    varifocal_loss,
)
from fastdet.kernels.focal_losses.reference import focal_reference, softmax_focal_reference
from fastdet.testing import assert_accurate

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
REDUCTIONS = ("none", "mean", "sum")


def losses(n, c, dtype, device="cpu"):
    """``{name: (prediction, its loss by reduction)}``; everything has the prediction's type."""
    def drawn(*shape, low=0.0, high=1.0):
        return (low + (high - low) * torch.rand(*shape, dtype=torch.float64)).to(device, dtype)

    x = (3 * torch.randn(n, c, dtype=torch.float64)).to(device, dtype)
    labels = torch.randint(-1, c + 1, (n,)).to(device)
    score, rows, each, classes = drawn(n), drawn(n), drawn(n, c), drawn(c)
    dense = drawn(n, c)
    dense = dense * (dense > 0.7)
    heat = drawn(n, c)
    heat[0] = 1
    return {
        "sigmoid": (x, lambda x, **r: sigmoid_focal_loss(x, labels, rows.to(x), **r)),
        "sigmoid_1.5": (x, lambda x, **r: sigmoid_focal_loss(x, labels, each.to(x), gamma=1.5,
                                                             alpha=0.4, **r)),
        "sigmoid_0": (x, lambda x, **r: sigmoid_focal_loss(x, labels, gamma=0, **r)),
        "sigmoid_dense": (x, lambda x, **r: sigmoid_focal_loss(x, dense.to(x), rows.to(x), **r)),
        "quality": (x, lambda x, **r: quality_focal_loss(x, (labels, score.to(x)), rows.to(x),
                                                         **r)),
        "quality_1": (x, lambda x, **r: quality_focal_loss(x, (labels, score.to(x)), beta=1, **r)),
        "varifocal": (x, lambda x, **r: varifocal_loss(x, dense.to(x), each.to(x), **r)),
        "varifocal_plain": (x, lambda x, **r: varifocal_loss(x, dense.to(x), gamma=3,
                                                             iou_weighted=False, **r)),
        "gaussian": (drawn(n, c, low=0.02, high=0.98),
                     lambda x, **r: gaussian_focal_loss(x, heat.to(x), **r)),
        "softmax": (x, lambda x, **r: softmax_focal_loss(x, labels.clamp(max=c - 1),
                                                         classes.to(x), **r)),
        "softmax_1.5": (x, lambda x, **r: softmax_focal_loss(x, labels.clamp(max=c - 1), gamma=1.5,
                                                             **r)),
    }


NAMES = tuple(losses(1, 1, torch.float32))


def run(loss, x, reduction):
    """The loss and its gradient for a cotangent of no special value."""
    x = x.detach().clone().requires_grad_()
    out = loss(x, reduction=reduction)
    grad = torch.cos(torch.arange(out.numel(), dtype=torch.float64)).view(out.shape).to(out)
    return out.detach(), torch.autograd.grad(out, x, grad)[0]


def literal(loss, x, reduction, monkeypatch):
    """The same by the reference and autograd, rather than in one pass."""
    with fastdet.backend("torch"), monkeypatch.context() as patch:
        patch.setattr(op, "tracing", lambda: True)
        return run(loss, x, reduction)


def test_sigmoid_is_mmdetections_form():
    x = torch.randn(30, 5, dtype=torch.float64)
    labels, weight = torch.randint(6, (30,)), torch.rand(30, dtype=torch.float64)
    want = sigmoid_focal_loss_eager(x, labels, weight, 7.0)
    one_hot = F.one_hot(labels, 6)[:, :5]
    for target in (labels, one_hot, one_hot.double()):
        got = sigmoid_focal_loss(x, target, weight, avg_factor=7.0)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


def test_values_by_hand():
    x = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    s = 1 / (1 + math.exp(-2))
    label = torch.tensor([1])
    got = sigmoid_focal_loss(x, label, reduction="none")[0]
    torch.testing.assert_close(got.tolist(), [0.75 * 0.25 * math.log(2),
                                              -0.25 * (1 - s) ** 2 * math.log(s)])
    got = quality_focal_loss(x, (label, torch.tensor([0.5])), reduction="none")
    quality = (s - 0.5) ** 2 * -(0.5 * math.log(s) + 0.5 * math.log(1 - s))
    torch.testing.assert_close(got.tolist(), [0.25 * math.log(2) + quality])
    got = varifocal_loss(x, torch.tensor([[0.0, 0.4]], dtype=x.dtype), reduction="none")[0]
    torch.testing.assert_close(got.tolist(), [
        0.75 * 0.25 * math.log(2), -0.4 * (0.4 * math.log(s) + 0.6 * math.log(1 - s))])
    got = softmax_focal_loss(x, torch.tensor([0]), torch.tensor([2.0, 3.0]), reduction="sum")
    torch.testing.assert_close(got.item(), -2 * 0.25 * s ** 2 * math.log(1 - s))
    p, t = torch.tensor([[0.3, 0.6], [1.0, 0.5]], dtype=x.dtype)
    torch.testing.assert_close(gaussian_focal_loss(p, t, reduction="none").tolist(), [
        -math.log(0.3) * 0.7**2, -math.log(0.4) * 0.6**2 * 0.5**4])


@pytest.mark.parametrize("name", NAMES)
def test_fused_pass_is_the_definition(name, monkeypatch):
    for dtype in (torch.float64, *DTYPES):
        x, loss = losses(50, 7, dtype)[name]
        for reduction in ("mean", "sum"):
            got = run(loss, x, reduction)
            its = literal(loss, x, reduction, monkeypatch)
            true = literal(loss, x.double(), reduction, monkeypatch)
            for what, *three in zip(("loss", "gradient"), got, its, true):
                assert_accurate(f"{name} {what}", *three, dtype)
                assert three[0].dtype == dtype


def test_fused_pass_in_many_chunks(monkeypatch):
    monkeypatch.setattr(cpu, "CHUNK", 16)
    for name in ("sigmoid", "varifocal"):
        x, loss = losses(23, 5, torch.float64)[name]
        for mine, its in zip(run(loss, x, "sum"), literal(loss, x, "sum", monkeypatch)):
            torch.testing.assert_close(mine, its, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name):
    x, loss = losses(5, 3, torch.float64)[name]
    for reduction in ("none", "mean"):
        assert torch.autograd.gradcheck(lambda x, r=reduction: loss(x, reduction=r),
                                        x.requires_grad_())


def test_reductions():
    x, labels = torch.randn(6, 4), torch.randint(5, (6,))
    each = sigmoid_focal_loss(x, labels, reduction="none")
    close = torch.testing.assert_close
    close(sigmoid_focal_loss(x, labels), each.mean())
    close(sigmoid_focal_loss(x, labels, reduction="sum"), each.sum())
    close(sigmoid_focal_loss(x, labels, avg_factor=torch.tensor(3.0)), each.sum() / 3)
    close(sigmoid_focal_loss(x, labels, reduction="none", avg_factor=3.0), each)
    assert sigmoid_focal_loss(x, labels, avg_factor=0.0).isfinite()
    rows = quality_focal_loss(x, (labels, torch.rand(6)), reduction="none")
    assert rows.shape == (6,)
    assert sigmoid_focal_loss(x[:0], labels[:0], reduction="sum") == 0
    assert sigmoid_focal_loss(x[:0], labels[:0]).isnan()  # as the mean of nothing is


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("avg_factor", [
    3.7, 5, torch.tensor(3.7), torch.tensor([3.7]), torch.tensor(3.7, dtype=torch.float64),
    torch.tensor(3.7, requires_grad=True)])
def test_the_division_is_the_sums(avg_factor, dtype):
    """To the bit, in type and shape too, wherever it happens, and in the gradients."""
    x, labels = torch.randn(5, 3, dtype=dtype, requires_grad=True), torch.tensor([0, 3, 1, 2, 3])
    found = sigmoid_focal_loss(x, labels, avg_factor=avg_factor)
    wanted = sigmoid_focal_loss(x, labels, reduction="sum") / (avg_factor + op.EPS)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    leaves = [x, avg_factor] if getattr(avg_factor, "requires_grad", False) else [x]
    grad = torch.full_like(found, 0.3)
    torch.testing.assert_close(torch.autograd.grad(found, leaves, grad),
                               torch.autograd.grad(wanted, leaves, grad), rtol=0, atol=0)


def test_nothing_is_kept_where_no_gradient_is_asked():
    x, labels = torch.randn(6, 4), torch.randint(5, (6,))
    assert not sigmoid_focal_loss(x, labels).requires_grad
    with torch.no_grad():
        assert not sigmoid_focal_loss(x.requires_grad_(), labels).requires_grad


def test_a_second_derivative_is_refused_rather_than_wrong():
    x, labels = torch.randn(6, 4, requires_grad=True), torch.randint(5, (6,))
    grad = torch.autograd.grad(sigmoid_focal_loss(x, labels), x, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="have a first derivative only"):
        grad.sum().backward()


def test_weights_have_gradients_too():
    x, labels = torch.randn(6, 4, dtype=torch.float64), torch.randint(5, (6,))
    weight = torch.rand(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w: sigmoid_focal_loss(x, labels, w, reduction="sum"),
        (x.requires_grad_(), weight))


@pytest.mark.parametrize(("call", "text"), [
    (lambda x, y: sigmoid_focal_loss(x, y[:2]), r"target must be integer labels \[3\] or \[3, 4\]"),
    (lambda x, y: sigmoid_focal_loss(x, y.float()), r"got torch.float32 \[3\]"),
    (lambda x, y: sigmoid_focal_loss(x[0], y), r"pred must be floating-point \[N, C\]"),
    (lambda x, y: sigmoid_focal_loss(x, y, torch.ones(4)), r"weight must be \[3\] or \[3, 4\]"),
    (lambda x, y: sigmoid_focal_loss(x, y, reduction="max"), "'none', 'mean' or 'sum', got 'max'"),
    (lambda x, y: sigmoid_focal_loss(x, y, reduction="sum", avg_factor=2.0), "avg_factor can not"),
    (lambda x, y: quality_focal_loss(x, (y, x)), r"target must be labels \[N\] and qualities"),
    (lambda x, y: quality_focal_loss(x, (y, x[:, 0]), x), r"weight must be \[N\], got \[3, 4\]"),
    (lambda x, y: varifocal_loss(x, y), r"target must be \[3, 4\] like pred"),
    (lambda x, y: gaussian_focal_loss(x, x, y), r"weight must be \[3, 4\] like pred"),
    (lambda x, y: softmax_focal_loss(x, y, y), r"weight must be \[4\] on cpu, got \[3\]"),
])
def test_bad_input(call, text):
    with pytest.raises(ValueError, match=text):
        call(torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64))


def test_compiles_whole():
    def step(x, labels, weight):
        return sigmoid_focal_loss(x, labels, weight, avg_factor=4.0)

    x, labels, weight = torch.randn(6, 4), torch.randint(5, (6,)), torch.rand(6)
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, labels, weight), step(x, labels, weight))


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_kernel(kernel_device, name, dtype, monkeypatch):
    x, loss = losses(52, 80, dtype, kernel_device)[name]  # more than one program's 4096
    for reduction in REDUCTIONS:
        got = run(loss, x, reduction)
        its = literal(loss, x, reduction, monkeypatch)
        true = literal(loss, x.double(), reduction, monkeypatch)
        for what, *three in zip(("loss", "gradient"), got, its, true):
            assert_accurate(f"{name} {reduction} {what}", *three, dtype)
            assert three[0].dtype == dtype


@pytest.mark.kernel
def test_kernel_where_the_logits_are_far_out(kernel_device):
    x = torch.tensor([[-90.0, 90.0, -30.0, 30.0, 0.0, 1e-6]], device=kernel_device)
    for label in (0, 1, 6):
        target = torch.tensor([label], device=kernel_device)
        got = sigmoid_focal_loss(x, target, reduction="none")
        want = focal_reference("sigmoid", x.double(), target, None, None, 2.0, 0.25)
        torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-37)
    got = softmax_focal_loss(x, torch.tensor([0], device=kernel_device), reduction="none")
    want = softmax_focal_reference(x.double(), torch.tensor([0], device=kernel_device), None, 2.0,
                                   0.25)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=0)


@pytest.mark.kernel
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_kernel_is_not_finite_where_the_reference_is_not(kernel_device, bad):
    x = torch.randn(5, 4, device=kernel_device)
    x[1, 2], x[3, 0] = bad, bad
    labels = torch.tensor([0, 2, 4, 1, 3], device=kernel_device)
    got = sigmoid_focal_loss(x, labels, reduction="none")
    want = focal_reference("sigmoid", x, labels, None, None, 2.0, 0.25)
    torch.testing.assert_close(got, want, equal_nan=True)
    assert not sigmoid_focal_loss(x, labels, reduction="sum").isfinite()


@pytest.mark.kernel
def test_kernel_takes_any_strides_and_no_rows(kernel_device):
    x = torch.randn(7, 6, device=kernel_device)
    labels = torch.randint(5, (14,), device=kernel_device)[::2]
    weight = torch.rand(1, device=kernel_device).expand(7)
    want = sigmoid_focal_loss(x.t().contiguous().t(), labels, weight)
    assert torch.equal(sigmoid_focal_loss(x, labels.contiguous(), weight.contiguous()), want)
    assert sigmoid_focal_loss(x[:0], labels[:0], reduction="sum") == 0
    assert sigmoid_focal_loss(x[:0], labels[:0], reduction="none").shape == (0, 6)


@pytest.mark.kernel
def test_kernel_refuses_what_it_cannot(kernel_device):
    x, labels = torch.randn(3, 4, device=kernel_device), torch.arange(3, device=kernel_device)
    with pytest.raises(fastdet.BackendError, match="not float64"):
        sigmoid_focal_loss(x.double(), labels)
    with pytest.raises(fastdet.BackendError, match="no gradient in targets and weights"):
        sigmoid_focal_loss(x, labels, x[:, 0].clone().requires_grad_())


@pytest.mark.kernel
def test_kernel_compiles_whole(kernel_device):
    x = torch.randn(6, 4, device=kernel_device, requires_grad=True)
    labels = torch.randint(5, (6,), device=kernel_device)
    compiled = torch.compile(sigmoid_focal_loss, fullgraph=True, backend="aot_eager")
    got, want = (f(x, labels, avg_factor=3.0) for f in (compiled, sigmoid_focal_loss))
    torch.testing.assert_close(got, want)
    for mine, its in zip(*(torch.autograd.grad(out, x) for out in (got, want))):
        torch.testing.assert_close(mine, its)


@pytest.mark.kernel
def test_opcheck(kernel_device):
    x = torch.randn(3, 4, device=kernel_device, requires_grad=True)
    labels = torch.tensor([0, 4, 2], device=kernel_device)
    row = torch.rand(3, device=kernel_device)
    torch.library.opcheck(op._each.traced, ("quality", x, labels, row, row, 2.0, 0.0))
    torch.library.opcheck(op._softmax.traced, (x, labels.clamp(max=3), None, 2.0, 0.25))
    # Its second result, the derivative, has none of its own: without a gradient here.
    torch.library.opcheck(op._sum.traced,
                          ("sigmoid", x.detach(), labels, None, row, 2.0, 0.25, True, row[:1],
                           None))
