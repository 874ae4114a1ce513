"""The linear layer by oneDNN, and what runs it, against torch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.profiler import profile

from fastdet.cnn.bricks.drop import DropPath
from fastdet.cnn.bricks.layers import convolve_to_tokens, run_layers
from fastdet.cnn.bricks.transformer import FFN
from fastdet.kernels.linear import linear
from fastdet.runner import Sequential


def leaves(needs=(True,) * 4, dtype=torch.float32):
    """x, weight, bias and residual; values that float32 can hold."""
    shapes = [(2, 7, 24), (40, 24), (40,), (2, 7, 40)]
    return [torch.randn(s).to(dtype).requires_grad_(n) for s, n in zip(shapes, needs)]


def definition(x, weight, bias=None, gelu=False, residual=None):
    out = F.linear(x, weight, bias)
    out = F.gelu(out) if gelu else out
    return out if residual is None else residual + out


def operators(call):
    with profile(activities=[torch.profiler.ProfilerActivity.CPU]) as record:
        call()
    return {event.key for event in record.key_averages()}


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_value_and_gradients_are_the_definitions(gelu, with_residual, with_bias):
    args = leaves()
    keep = [True, True, with_bias, with_residual]
    grad = torch.randn(2, 7, 40)

    def both(form, args):
        x, weight, *rest = args
        bias, residual = (t if k else None for t, k in zip(rest, keep[2:]))
        out = form(x, weight, bias, gelu=gelu, residual=residual)
        wanted = [t for t, k in zip(args, keep) if k]
        return out, *torch.autograd.grad(out, wanted, grad.to(out.dtype))

    want = both(definition, [t.double() for t in args])
    for got, expected in zip(both(linear, args), want):
        torch.testing.assert_close(got, expected.float(), rtol=1e-5, atol=2e-5)
    with torch.no_grad():
        alone = linear(args[0], args[1], args[2] if with_bias else None, gelu=gelu,
                       residual=args[3] if with_residual else None)
    torch.testing.assert_close(alone, want[0].float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("which", range(4))
def test_one_gradient_alone(which):
    args = leaves([i == which for i in range(4)])
    linear(*args[:3], residual=args[3]).square().sum().backward()
    got = args[which].grad
    args[which].grad = None
    definition(*args[:3], residual=args[3]).square().sum().backward()
    torch.testing.assert_close(got, args[which].grad, rtol=1e-4, atol=1e-4)


def test_second_derivatives():
    def penalty(form):
        torch.manual_seed(0)
        x, weight, bias, _ = leaves()
        grad, = torch.autograd.grad(form(x, weight, bias).pow(3).sum(), x, create_graph=True)
        grad.square().sum().backward()
        return x.grad, weight.grad, bias.grad

    for got, want in zip(penalty(linear), penalty(definition)):
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-2 * want.abs().max().item())


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_what_runs():
    x, weight, bias, residual = leaves()
    used = "mkldnn::_linear_pointwise"
    assert used in operators(lambda: linear(x, weight, bias, residual=residual))
    with torch.no_grad():
        names = operators(lambda: linear(x, weight, bias, gelu=True))
        assert used in names
        assert "aten::gelu" not in names
        assert "aten::add" not in operators(lambda: linear(x, weight, bias, residual=residual))
        with torch.backends.mkldnn.flags(enabled=False):
            assert used not in operators(lambda: linear(x, weight, bias))


def test_types_layouts_and_sizes():
    x, weight, bias, residual = leaves(dtype=torch.float64)
    assert torch.equal(linear(x, weight, bias, gelu=True, residual=residual),
                       definition(x, weight, bias, True, residual))
    x, weight, bias, residual = leaves(needs=(False,) * 4)
    for a, w, r in ((x.transpose(0, 1), weight, None), (x[..., ::2], weight[:, ::2], residual),
                    (x[:, :1].expand(2, 7, 24), weight, residual[:, :1]), (x[:0], weight, None),
                    (x[0, 0], weight, residual), (x, weight.t().contiguous().t(), residual)):
        torch.testing.assert_close(linear(a, w, bias, residual=r),
                                   definition(a, w, bias, residual=r), rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = linear(x, weight, bias)
        assert got.dtype == torch.bfloat16
        assert torch.equal(got, definition(x, weight, bias))


def test_layers_that_someone_changed_are_called():
    seen = []
    layers = Sequential(nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Dropout(0.5)),
                        nn.Linear(40, 24), DropPath(0.3)).eval()
    x = torch.randn(2, 7, 24)
    want = layers(x) + x
    torch.testing.assert_close(run_layers(layers, x, x), want, rtol=1e-5, atol=1e-5)
    for layer in (layers[0], layers[0][1], layers[0][2], layers[1]):
        hook = layer.register_forward_hook(lambda layer, args, out: seen.append(layer))
        run_layers(layers, x, x)
        assert seen.pop() is layer
        assert not seen
        hook.remove()
    layers[1].forward = lambda x: x[..., :24] * 0
    assert torch.equal(run_layers(layers, x, x), x)


def test_layers_in_train_mode_draw_as_they_do():
    layers = nn.Sequential(nn.Linear(24, 40), nn.GELU(), nn.Dropout(0.5), nn.Linear(40, 24),
                           DropPath(0.5))
    x = torch.randn(6, 7, 24)
    torch.manual_seed(1)
    want = layers(x) + x
    torch.manual_seed(1)
    torch.testing.assert_close(run_layers(layers, x, x), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("add_identity", [False, True])
def test_a_feed_forward_network_in_parts(monkeypatch, add_identity):
    network = FFN(24, 40, act_cfg={"type": "GELU"}, add_identity=add_identity).eval()
    x, identity = torch.randn(2, 7, 24), torch.randn(1, 7, 24)
    want = network.layers(x) + (identity if add_identity else 0)
    with torch.no_grad():
        whole = network(x, identity)
        monkeypatch.setattr(FFN, "_PART_BYTES", 3 * 40 * 4)
        parts = network(x, identity)
    for got in (whole, parts):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("hooked", [False, True])
@pytest.mark.parametrize("size", [4, 24])
def test_a_convolution_to_tokens(size, hooked):
    layer = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    if hooked:
        layer.register_forward_hook(lambda layer, args, out: 2 * out)
    x = torch.randn(2, 3, size, size, requires_grad=True)
    got, hw = convolve_to_tokens(layer, x)
    want = layer(x).flatten(2).transpose(1, 2)
    assert hw == (size // 2, size // 2)
    assert got.is_contiguous() == (x.numel() > layer.weight.numel() and not hooked)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    for a, b in zip(*(torch.autograd.grad(out.square().sum(), (x, *layer.parameters()))
                      for out in (got, want))):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
