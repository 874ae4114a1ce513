"""ConvModule and DepthwiseSeparableConvModule."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastdet.cnn import CONV_LAYERS, ConvModule, DepthwiseSeparableConvModule

BN = dict(type="BN")


@pytest.mark.parametrize("order", list(itertools.permutations(("conv", "norm", "act"))))
@pytest.mark.parametrize("activate", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_order(order, activate, norm):
    block = ConvModule(3, 5, 3, padding=1, norm_cfg=BN, inplace=False, order=order).double().eval()
    channels = 5 if order.index("norm") > order.index("conv") else 3
    assert block.bn.num_features == channels
    block.bn.running_mean.normal_()
    x = expect = torch.randn(2, 3, 4, 6, dtype=torch.float64)
    for step in order:
        if step == "conv":
            expect = F.conv2d(expect, block.conv.weight, block.conv.bias, padding=1)
        elif step == "norm" and norm:
            expect = F.batch_norm(expect, block.bn.running_mean, block.bn.running_var)
        elif step == "act" and activate:
            expect = F.relu(expect)
    torch.testing.assert_close(block(x, activate=activate, norm=norm), expect)


def test_defaults_and_attributes():
    block = ConvModule(4, 6, (3, 1), stride=2, padding=(1, 0), dilation=1, groups=2)
    assert list(block.state_dict()) == ["conv.weight", "conv.bias"]
    assert (block.with_norm, block.with_activation, block.with_bias) == (False, True, True)
    assert block.norm is None
    assert block.norm_name is None
    assert isinstance(block.activate, nn.ReLU)
    assert block.activate.inplace
    assert (block.in_channels, block.out_channels, block.groups) == (4, 6, 2)
    assert (block.kernel_size, block.stride) == ((3, 1), (2, 2))
    assert (block.padding, block.dilation) == ((1, 0), (1, 1))
    assert (block.transposed, block.output_padding) == (False, (0, 0))
    assert block.order == ("conv", "norm", "act")


@pytest.mark.parametrize(("bias", "norm_cfg", "expect"), [
    ("auto", None, True), ("auto", BN, False), (True, None, True), (False, None, False),
    (False, BN, False), (True, dict(type="GN", num_groups=2), True)])
def test_bias(bias, norm_cfg, expect):
    block = ConvModule(2, 4, 1, bias=bias, norm_cfg=norm_cfg)
    assert block.with_bias is expect
    assert (block.conv.bias is not None) is expect


def test_useless_bias_warns():
    with pytest.warns(UserWarning, match="useless before a batch or instance norm"):
        ConvModule(2, 4, 1, bias=True, norm_cfg=BN)


@pytest.mark.parametrize(("norm_cfg", "name"), [
    (BN, "bn"), (dict(type="GN", num_groups=2), "gn"), (dict(type="IN", affine=True), "in")])
def test_norm_name(norm_cfg, name):
    block = ConvModule(2, 4, 1, norm_cfg=norm_cfg)
    assert block.norm_name == name
    assert block.norm is getattr(block, name)
    assert list(block.state_dict())[:3] == ["conv.weight", f"{name}.weight", f"{name}.bias"]


@pytest.mark.parametrize(("kind", "takes"), [
    ("ReLU", True), ("LeakyReLU", True), ("RReLU", True), ("ReLU6", True), ("ELU", True),
    ("HSwish", True), ("SiLU", True), ("Mish", True), ("PReLU", False), ("Sigmoid", False),
    ("Tanh", False), ("GELU", False), ("Swish", False), ("HSigmoid", False), ("Clamp", False)])
@pytest.mark.filterwarnings("ignore:HSigmoid")
def test_inplace(kind, takes):
    cfg = dict(type=kind)
    assert hasattr(ConvModule(2, 2, 1, act_cfg=cfg).activate, "inplace") is takes
    assert cfg == dict(type=kind)
    if takes:
        assert ConvModule(2, 2, 1, act_cfg=cfg).activate.inplace
        assert not ConvModule(2, 2, 1, act_cfg=cfg, inplace=False).activate.inplace
        assert not ConvModule(2, 2, 1, act_cfg=dict(type=kind, inplace=False)).activate.inplace


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate", "zero"])
@pytest.mark.parametrize("padding", [1, (2, 1)])
def test_padding_mode(mode, padding):
    """``'circular'`` pads with zeros, as in mmcv."""
    block = ConvModule(2, 3, 3, padding=padding, padding_mode=mode, act_cfg=None).double()
    assert block.with_explicit_padding is (mode not in ("zeros", "circular"))
    assert block.padding == padding
    assert list(block.state_dict()) == ["conv.weight", "conv.bias"]
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64)
    h, w = (padding, padding) if isinstance(padding, int) else padding
    padded = F.pad(x, (w, w, h, h), mode=mode if mode in ("reflect", "replicate") else "constant")
    torch.testing.assert_close(block(x), F.conv2d(padded, block.conv.weight, block.conv.bias))


def test_spectral_norm():
    block = ConvModule(3, 4, 3, padding=1, with_spectral_norm=True).eval()
    assert "conv.weight_orig" in block.state_dict()
    u, v = block.conv.weight_u, block.conv.weight_v
    block(torch.randn(1, 3, 4, 4))
    flat = block.conv.weight_orig.flatten(1)
    torch.testing.assert_close(block.conv.weight.flatten(1), flat / (u @ flat @ v))


def test_initialisation():
    block = ConvModule(16, 64, 3, norm_cfg=BN)
    assert abs(block.conv.weight.std().item() - math.sqrt(2 / (64 * 9))) < 0.002
    assert (block.bn.weight == 1).all()
    assert (block.bn.bias == 0).all()
    leaky = ConvModule(16, 64, 3, act_cfg=dict(type="LeakyReLU", negative_slope=1.0))
    assert abs(leaky.conv.weight.std().item() - math.sqrt(1 / (64 * 9))) < 0.002
    assert (leaky.conv.bias == 0).all()


def test_conv_that_initialises_itself():
    class OnesConv(nn.Conv2d):
        def init_weights(self):
            raise AssertionError("ConvModule must not call this")

        def reset_parameters(self):
            nn.init.ones_(self.weight)

    CONV_LAYERS.register_module(module=OnesConv)
    try:
        block = ConvModule(2, 2, 1, conv_cfg=dict(type="OnesConv"), bias=False)
    finally:
        del CONV_LAYERS.module_dict["OnesConv"]
    assert (block.conv.weight == 1).all()


def test_transposed():
    block = ConvModule(2, 3, 2, stride=2, conv_cfg=dict(type="deconv", output_padding=1))
    assert block.transposed
    assert block.output_padding == (1, 1)
    assert block(torch.randn(1, 2, 3, 3)).shape == (1, 3, 7, 7)


@pytest.mark.parametrize(("kwargs", "error", "sentence"), [
    (dict(order=["conv", "norm", "act"]), TypeError, "order must be a tuple, got list"),
    (dict(order=("conv", "act")), ValueError, "order must be a permutation"),
    (dict(order=("conv", "norm", "relu")), ValueError, "order must be a permutation"),
    (dict(conv_cfg="Conv2d"), TypeError, "conv_cfg must be a dict or None, got str"),
    (dict(norm_cfg="BN"), TypeError, "norm_cfg must be a dict or None, got str"),
    (dict(act_cfg="ReLU"), TypeError, "act_cfg must be a dict or None, got str"),
    (dict(act_cfg=dict(type="Relu")), KeyError, "did you mean ReLU"),
    (dict(padding_mode="reflct"), KeyError, "did you mean reflect")])
def test_errors(kwargs, error, sentence):
    with pytest.raises(error, match=sentence):
        ConvModule(2, 2, 1, **kwargs)


def test_depthwise_separable():
    block = DepthwiseSeparableConvModule(4, 6, 3, stride=2, padding=1, norm_cfg=BN)
    assert block.depthwise_conv.groups == 4
    assert block.depthwise_conv.out_channels == 4
    assert block.pointwise_conv.kernel_size == (1, 1)
    assert isinstance(block.depthwise_conv.activate, nn.ReLU)
    assert block.depthwise_conv.norm_name == block.pointwise_conv.norm_name == "bn"
    x = torch.randn(2, 4, 5, 5)
    assert block(x).shape == (2, 6, 3, 3)

    mixed = DepthwiseSeparableConvModule(
        4, 6, 3, dw_norm_cfg=BN, dw_act_cfg=None, pw_norm_cfg=dict(type="GN", num_groups=2),
        pw_act_cfg=dict(type="Tanh"), inplace=False)
    assert mixed.depthwise_conv.norm_name == "bn"
    assert not mixed.depthwise_conv.with_activation
    assert mixed.pointwise_conv.norm_name == "gn"
    assert isinstance(mixed.pointwise_conv.activate, nn.Tanh)
    plain = mixed.pointwise_conv(mixed.depthwise_conv(x))
    torch.testing.assert_close(mixed(x), plain)
    with pytest.raises(ValueError, match="groups must not be given"):
        DepthwiseSeparableConvModule(4, 6, 3, groups=2)
