"""DynamicConv: forward against its definition, switches, and who computes it."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastdet.models.utils.dynamic_conv as dynamic_conv_module
import fastdet.models.utils.transformer as transformer
from fastdet.models.utils import DynamicConv, build_transformer


def by_definition(layer, param_feature, region):
    """One proposal after another."""
    feat, out = layer.feat_channels, layer.out_channels
    results = []
    for vector, x in zip(layer.dynamic_layer(param_feature), region.flatten(2)):
        p_in = vector[: layer.num_params_in].view(-1, feat)
        p_out = vector[layer.num_params_in:].view(feat, out)
        hidden = layer.norm_in(x.t() @ p_in).relu()
        results.append(layer.norm_out(hidden @ p_out).relu())
    stacked = torch.stack(results)
    if not layer.with_proj:
        return stacked
    return layer.fc_norm(F.linear(stacked.flatten(1), layer.fc_layer.weight,
                                  layer.fc_layer.bias)).relu()


def make(**kwargs):
    layer = DynamicConv(**{"in_channels": 12, "feat_channels": 6, "input_feat_shape": 3, **kwargs})
    for parameter in layer.parameters():  # norms that are not the identity
        nn.init.normal_(parameter, std=0.5)
    return layer.double(), torch.randn(4, 12).double(), torch.randn(4, 12, 3, 3).double()


@pytest.mark.parametrize("kwargs", [
    {}, {"out_channels": 7}, {"with_proj": False}, {"with_proj": False, "out_channels": 5},
    {"norm_cfg": {"type": "LN", "eps": 0.3}},
    {"norm_cfg": {"type": "LN", "requires_grad": False}},
    {"norm_cfg": {"type": "LN", "elementwise_affine": False}},
    {"norm_cfg": {"type": "LN", "bias": False}},
])
def test_forward_is_its_definition(kwargs):
    layer, param_feature, region = make(**kwargs)
    out = layer(param_feature, region)
    torch.testing.assert_close(out, by_definition(layer, param_feature, region))
    assert torch.equal(layer(param_feature, region.flatten(2)), out)


def test_other_activations_and_norms_are_applied(monkeypatch):
    monkeypatch.setattr(dynamic_conv_module, "dynamic_conv",
                        lambda *a, **k: pytest.fail("the operator has no such activation or norm"))
    layer, param_feature, region = make(act_cfg={"type": "GELU"}, with_proj=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "relu", lambda t: F.gelu(t))
        want = by_definition(layer, param_feature, region)
    torch.testing.assert_close(layer(param_feature, region), want)

    layer, param_feature, region = make(norm_cfg={"type": "LN", "bias": False}, with_proj=False)
    torch.testing.assert_close(layer(param_feature, region),
                               by_definition(layer, param_feature, region))


def test_plain_norms_and_relu_go_to_the_operator(monkeypatch):
    calls = []
    operator = dynamic_conv_module.dynamic_conv
    monkeypatch.setattr(dynamic_conv_module, "dynamic_conv",
                        lambda *a, **k: calls.append(1) or operator(*a, **k))
    layer, param_feature, region = make()
    layer(param_feature, region)
    assert calls


@pytest.mark.parametrize("with_proj", [True, False])
def test_no_proposals(with_proj):
    layer, param_feature, region = make(with_proj=with_proj)
    out = layer(param_feature[:0], region[:0])
    assert out.shape == ((0, 12) if with_proj else (0, 9, 12))
    out.sum().backward()


def test_every_parameter_gets_its_gradient():
    layer, param_feature, region = make()
    layer(param_feature, region.requires_grad_()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.parameters())
    assert region.grad.shape == region.shape


def test_autocast_gives_what_the_last_norm_gives():
    for with_proj in (True, False):
        layer, param_feature, region = make(with_proj=with_proj)
        layer.float()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = layer(param_feature.float(), region.float())
        want = layer.double()(param_feature, region)
        torch.testing.assert_close(out.double(), want, atol=0.1, rtol=0.1)
        if not with_proj:
            assert out.dtype == torch.float32


def test_attributes_and_where_it_is_found():
    layer = build_transformer({"type": "DynamicConv", "in_channels": 8, "feat_channels": 4})
    assert (layer.out_channels, layer.out_channels_raw, layer.input_feat_shape) == (8, None, 7)
    assert (layer.num_params_in, layer.num_params_out, layer.with_proj) == (32, 32, True)
    assert isinstance(layer.activation, nn.ReLU)
    assert layer.activation.inplace
    assert transformer.DynamicConv is DynamicConv is type(layer)
    assert not hasattr(DynamicConv(8, 4, with_proj=False), "fc_layer")


@pytest.mark.parametrize(("param_shape", "shape", "text"), [
    ((4, 12), (4, 12), r"expected param_feature \[N, 12\] and input_feature \[N, 12, H, W\]"),
    ((4, 12), (3, 12, 3, 3), r"got \[4, 12\] and \[3, 12, 3, 3\]"),
    ((1, 4, 12), (4, 12, 3, 3), "expected param_feature"),
    ((4, 12), (4, 12, 4, 4), r"its fc_layer takes 3\^2 places, got input_feature \[4, 12, 4, 4\]"),
])
def test_bad_input(param_shape, shape, text):
    layer = make()[0].float()
    with pytest.raises(ValueError, match=text):
        layer(torch.zeros(param_shape), torch.zeros(shape))
