"""Operators that are called directly where nothing traces, and through torch.library elsewhere."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from fastdet.kernels.autograd import operator

calls = []


@operator("test_scaled_backward", "(Tensor grad, Tensor x, float factor) -> Tensor")
def _backward(grad, x, factor):
    calls.append("backward")
    return 2 * factor * x * grad


@_backward.register_fake
def _(grad, x, factor):
    return torch.empty_like(x)


@operator("test_scaled", "(Tensor x, float factor) -> (Tensor, Tensor)")
def scaled(x, factor):
    """``factor * x**2``, and ``x`` once more."""
    calls.append("forward")
    return factor * x * x, x.clone()


@scaled.register_fake
def _(x, factor):
    return torch.empty_like(x), torch.empty_like(x)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(inputs[0])
    ctx.factor = inputs[1]
    ctx.mark_non_differentiable(output[1])


def _autograd(ctx, grad, _):
    return _backward(grad, *ctx.saved_tensors, ctx.factor), None


scaled.register_autograd(_autograd, setup_context=_setup_context)


@pytest.fixture
def traced(monkeypatch):
    """The names of the operators that went through the dispatcher."""
    seen = []
    for op in (scaled, _backward):
        def through(*args, op=op, traced=op.traced):
            seen.append(op)
            return traced(*args)
        monkeypatch.setattr(op, "traced", through)
    return seen


def leaf():
    return torch.tensor([1.0, 2.0, 3.0], requires_grad=True)


def test_a_plain_call_is_the_body(traced):
    x = leaf()
    out, copy = scaled(x, 2.0)
    assert out.requires_grad
    assert not copy.requires_grad
    out.backward(torch.ones(3))
    assert x.grad.tolist() == [4, 8, 12]
    with torch.no_grad():
        assert scaled(x, 2.0)[0].grad_fn is None
    assert scaled(x.detach(), 2.0)[0].grad_fn is None
    out, _ = scaled(torch.nn.Parameter(x.detach()), 2.0)
    assert out.requires_grad
    assert not traced


def test_checkpointing_computes_it_again(traced):
    x, calls[:] = leaf(), []
    checkpoint(lambda x: scaled(x, 2.0)[0], x, use_reentrant=False).sum().backward()
    assert x.grad.tolist() == [4, 8, 12]
    assert calls == ["forward", "forward", "backward"]
    assert not traced


@operator("test_squared", "(Tensor x) -> (Tensor, Tensor)", saved=1)
def squared(x):
    """``x**2``, and for the backward pass alone ``x``."""
    return x * x, x.clone()


@squared.register_fake
def _(x):
    return torch.empty_like(x), torch.empty_like(x)


def _squared_context(ctx, inputs, output):
    ctx.save_for_backward(output[1])
    ctx.set_materialize_grads(False)


squared.register_autograd(lambda ctx, grad, *_: _backward(grad, *ctx.saved_tensors, 1.0),
                          setup_context=_squared_context)


def test_what_is_saved_is_no_result():
    x, wanted = leaf(), [1, 4, 9]
    assert squared(x.detach()).tolist() == wanted
    for call in (squared, torch.compile(squared, fullgraph=True, backend="aot_eager"),
                 lambda x: checkpoint(squared, x, use_reentrant=False)):
        out = call(x)
        assert out.tolist() == wanted
        assert torch.autograd.grad(out.sum(), x)[0].tolist() == [2, 4, 6]
    torch.library.opcheck(squared.traced, (leaf(),))


@pytest.mark.parametrize("call", [lambda x: scaled(x, 2.0)[0], squared,
                                  lambda x: squared.traced(x)[0],
                                  lambda x: checkpoint(squared, x, use_reentrant=False)])
def test_a_second_derivative_is_refused_and_not_zero(call):
    x = leaf()
    grad, = torch.autograd.grad(call(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no autograd formula was registered"):
        grad.sum().backward()


class Sub(torch.Tensor):
    """A subclass that need not behave as a plain tensor does."""


@pytest.mark.filterwarnings("ignore:.*jit.trace")
def test_what_traces_meets_the_dispatcher(traced):
    scaled(leaf().detach().as_subclass(Sub), 2.0)
    assert traced.pop() is scaled
    graph = torch.jit.trace(lambda x: scaled(x, 2.0)[0], leaf().detach(), check_trace=False).graph
    assert "fastdet::test_scaled" in str(graph)
    assert traced == [scaled]


def test_compiled_whole():
    x, calls[:] = leaf(), []
    torch.compile(lambda x: scaled(x, 2.0)[0] + 1, fullgraph=True,
                  backend="aot_eager")(x).sum().backward()
    assert x.grad.tolist() == [4, 8, 12]
    assert calls == ["forward", "backward"]
    torch.library.opcheck(scaled.traced, (leaf(), 2.0))


@operator("test_weighted", "(Tensor x, Tensor[] ws, Tensor? b, Tensor[] more) -> (Tensor, Tensor)")
def weighted(x, ws, b, more):
    """``x`` times each of ``ws``, summed, plus ``b``."""
    out = sum(x * w for w in (*ws, *more))
    return (out if b is None else out + b), x.clone()


@weighted.register_fake
def _(x, ws, b, more):
    return torch.empty_like(x), torch.empty_like(x)


needed = []


def _weighted_context(ctx, inputs, output):
    x, ws, _, more = inputs
    ctx.counts = len(ws), len(more)
    ctx.save_for_backward(x, *ws, *more)
    ctx.mark_non_differentiable(output[1])


def _weighted_autograd(ctx, grad, _):
    needed.append(ctx.needs_input_grad)
    x, *ws = ctx.saved_tensors
    first, rest = ctx.counts
    return (grad * sum(ws), [grad * x] * first, None if not ctx.needs_input_grad[2] else grad,
            [grad * x] * rest)


weighted.register_autograd(_weighted_autograd, setup_context=_weighted_context)


@pytest.mark.parametrize("rest", [0, 1, 2])
def test_lists_of_tensors_get_gradients_one_by_one(monkeypatch, rest):
    def gradients(through):
        x, b, *ws = (leaf() for _ in range(4 + rest))
        ws[1].requires_grad_(False)
        out, copy = through(x, ws[:2], b, ws[2:])
        assert not copy.requires_grad
        out.backward(torch.arange(3.0))
        return [None if t.grad is None else t.grad.tolist() for t in (x, b, *ws)]

    def refuse(*args):
        raise AssertionError("went through the dispatcher")

    wanted = gradients(weighted.traced)
    with monkeypatch.context() as patch:
        patch.setattr(weighted, "traced", refuse)
        assert gradients(weighted) == wanted
        assert weighted(torch.ones(3), [torch.ones(3)], None, [])[0].tolist() == [1, 1, 1]
    by_torch, ours = ([list(n) if isinstance(n, (list, tuple)) else n for n in needs]
                      for needs in needed[-2:])
    assert ours == by_torch == [True, [True, False], True, [True] * rest]


def test_a_subclass_in_a_list_meets_the_dispatcher(monkeypatch):
    seen = []
    monkeypatch.setattr(weighted, "traced", lambda *args: seen.append(args))
    weighted(torch.ones(3), [torch.ones(3), torch.ones(3).as_subclass(Sub)], None, [])
    assert len(seen) == 1
