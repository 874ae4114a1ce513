"""Layers by config: names, defaults, errors."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastdet import cnn
from fastdet.cnn import (
    ACTIVATION_LAYERS,
    CONV_LAYERS,
    NORM_LAYERS,
    PLUGIN_LAYERS,
    build_activation_layer,
    build_conv_layer,
    build_norm_layer,
    build_padding_layer,
    build_plugin_layer,
    build_upsample_layer,
    is_norm,
    revert_sync_batchnorm,
)
from fastdet.cnn.bricks import Dropout, DropPath, PixelShufflePack, build_dropout, drop_path


@pytest.fixture
def registered():
    """Register a class for one test."""
    added = []

    def register(registry, cls, **kwargs):
        before = dict(registry.module_dict)
        added.append((registry, before))
        registry.register_module(module=cls, **kwargs)
        return cls

    yield register
    for registry, before in reversed(added):
        registry.module_dict.clear()
        registry.module_dict.update(before)


def test_all_names_exist():
    for name in cnn.__all__:
        assert getattr(cnn, name) is not None


@pytest.mark.parametrize(("kind", "cls"), [
    (None, nn.Conv2d), ("Conv1d", nn.Conv1d), ("Conv2d", nn.Conv2d), ("Conv3d", nn.Conv3d),
    ("Conv", nn.Conv2d), ("deconv", nn.ConvTranspose2d), ("deconv3d", nn.ConvTranspose3d),
    ("ConvWS", cnn.ConvWS2d), ("ConvAWS", cnn.ConvAWS2d),
    ("Conv2dAdaptivePadding", cnn.Conv2dAdaptivePadding), ("mmcv.Conv2d", nn.Conv2d),
    (nn.Conv2d, nn.Conv2d)])
def test_conv(kind, cls):
    cfg = None if kind is None else dict(type=kind, bias=False)
    layer = build_conv_layer(cfg, 4, 6, kernel_size=3, stride=2)
    assert type(layer) is cls
    assert (layer.in_channels, layer.out_channels) == (4, 6)
    assert (layer.bias is None) == (kind is not None)
    if cfg is not None:
        assert cfg == dict(type=kind, bias=False)


@pytest.mark.parametrize(("kind", "cls", "name"), [
    ("BN", nn.BatchNorm2d, "bn"), ("BN1d", nn.BatchNorm1d, "bn"), ("BN2d", nn.BatchNorm2d, "bn"),
    ("BN3d", nn.BatchNorm3d, "bn"), ("SyncBN", nn.SyncBatchNorm, "bn"), ("LN", nn.LayerNorm, "ln"),
    ("IN", nn.InstanceNorm2d, "in"), ("IN1d", nn.InstanceNorm1d, "in"),
    ("IN2d", nn.InstanceNorm2d, "in"), ("IN3d", nn.InstanceNorm3d, "in")])
def test_norm(kind, cls, name):
    cfg = dict(type=kind)
    assert build_norm_layer(cfg, 8)[0] == name
    got, layer = build_norm_layer(cfg, 8, postfix=2)
    assert got == f"{name}2"
    assert type(layer) is cls
    assert layer.eps == 1e-5
    assert all(p.requires_grad for p in layer.parameters())
    assert build_norm_layer(dict(type=kind, eps=1e-3), 8, "_x")[1].eps == 1e-3
    assert cfg == dict(type=kind)


def test_group_norm_and_frozen_parameters():
    name, layer = build_norm_layer(dict(type="GN", num_groups=4, requires_grad=False), 8, 1)
    assert name == "gn1"
    assert (layer.num_groups, layer.num_channels) == (4, 8)
    assert not any(p.requires_grad for p in layer.parameters())
    with pytest.raises(ValueError, match="num_groups"):
        build_norm_layer(dict(type="GN"), 8)
    with pytest.raises(TypeError, match="postfix must be an int or a str, got list"):
        build_norm_layer(dict(type="BN"), 8, postfix=[1])


def test_norm_names_of_user_classes(registered):
    class Abbreviated(nn.Module):
        _abbr_ = "abc"

        def __init__(self, channels, eps):
            super().__init__()

    class MyBatchThing(Abbreviated):
        _abbr_ = "bn"

    class Plain(nn.Module):
        def __init__(self, channels, eps):
            super().__init__()

    class FancyInstanceWhitening(Plain):
        pass

    for cls, name in ((Abbreviated, "abc"), (MyBatchThing, "bn"), (Plain, "norm_layer"),
                      (FancyInstanceWhitening, "in")):
        registered(NORM_LAYERS, cls)
        assert build_norm_layer(dict(type=cls.__name__), 4)[0] == name


def test_force_replaces_a_registered_class(registered):
    class ReLU(nn.ReLU):
        pass

    with pytest.raises(KeyError, match="already registered"):
        registered(ACTIVATION_LAYERS, ReLU)
    registered(ACTIVATION_LAYERS, ReLU, force=True)
    assert type(build_activation_layer(dict(type="ReLU"))) is ReLU
    block = cnn.ConvModule(2, 2, 1)
    assert type(block.activate) is ReLU
    assert block.activate.inplace


def test_is_norm():
    norms = [nn.BatchNorm2d(4), nn.SyncBatchNorm(4), nn.InstanceNorm1d(4), nn.GroupNorm(2, 4),
             nn.LayerNorm(4)]
    assert all(is_norm(n) for n in norms)
    assert not is_norm(nn.Conv2d(4, 4, 1))
    assert not is_norm(norms[0], exclude=nn.BatchNorm2d)
    assert not is_norm(norms[4], exclude=(nn.BatchNorm2d, nn.LayerNorm))
    assert is_norm(norms[3], exclude=(nn.BatchNorm2d,))
    with pytest.raises(TypeError, match="exclude"):
        is_norm(norms[0], exclude="BN")


@pytest.mark.parametrize(("cfg", "expect"), [
    (dict(type="ReLU"), F.relu), (dict(type="LeakyReLU", negative_slope=0.1),
                                  lambda x: F.leaky_relu(x, 0.1)),
    (dict(type="PReLU"), lambda x: F.leaky_relu(x, 0.25)), (dict(type="ReLU6"), F.relu6),
    (dict(type="ELU"), F.elu), (dict(type="Sigmoid"), torch.sigmoid),
    (dict(type="Tanh"), torch.tanh), (dict(type="GELU"), F.gelu),
    (dict(type="Swish"), lambda x: x * torch.sigmoid(x)),
    (dict(type="SiLU"), lambda x: x * torch.sigmoid(x)),
    (dict(type="Mish"), lambda x: x * torch.tanh(F.softplus(x))),
    (dict(type="HSwish"), lambda x: x * F.relu6(x + 3) / 6),
    (dict(type="Clip", min=-0.5, max=2), lambda x: x.clamp(-0.5, 2)),
    (dict(type="Clamp"), lambda x: x.clamp(-1, 1))])
def test_activation(cfg, expect):
    x = torch.linspace(-5, 5, 41, dtype=torch.float64)
    layer = build_activation_layer(cfg).double()
    torch.testing.assert_close(layer(x), expect(x))


def test_random_activation_has_its_bounds():
    layer = build_activation_layer(dict(type="RReLU", lower=0.1, upper=0.3))
    assert (layer.lower, layer.upper) == (0.1, 0.3)


def test_hsigmoid():
    x = torch.linspace(-5, 5, 41, dtype=torch.float64)
    with pytest.warns(UserWarning, match="bias=3, divisor=6"):
        layer = build_activation_layer(dict(type="HSigmoid"))
    torch.testing.assert_close(layer(x), F.hardsigmoid(x))
    with pytest.warns(UserWarning, match="bias=3, divisor=6"):
        old = build_activation_layer(
            dict(type="HSigmoid", bias=1, divisor=2, min_value=0.25, max_value=0.75))
    torch.testing.assert_close(old(x), ((x + 1) / 2).clamp(0.25, 0.75))
    with (pytest.warns(UserWarning, match="bias=3"),
          pytest.raises(ValueError, match="divisor must not be 0")):
        build_activation_layer(dict(type="HSigmoid", divisor=0))


@pytest.mark.parametrize(("kind", "mode"), [
    ("zero", "constant"), ("reflect", "reflect"), ("replicate", "replicate")])
def test_padding(kind, mode):
    x = torch.randn(1, 2, 4, 5)
    torch.testing.assert_close(build_padding_layer(dict(type=kind), 2)(x),
                               F.pad(x, (2, 2, 2, 2), mode=mode))
    torch.testing.assert_close(build_padding_layer(dict(type=kind, padding=(1, 0, 2, 3)))(x),
                               F.pad(x, (1, 0, 2, 3), mode=mode))


def test_upsample():
    x = torch.randn(2, 4, 3, 5)
    for mode in ("nearest", "bilinear"):
        cfg = dict(type=mode, scale_factor=2)
        torch.testing.assert_close(build_upsample_layer(cfg)(x),
                                   F.interpolate(x, scale_factor=2, mode=mode))
        assert cfg == dict(type=mode, scale_factor=2)
    deconv = build_upsample_layer(
        dict(type="deconv", in_channels=4, out_channels=3, kernel_size=2, stride=2))
    assert type(deconv) is nn.ConvTranspose2d
    assert deconv(x).shape == (2, 3, 6, 10)


def test_pixel_shuffle():
    layer = build_upsample_layer(dict(type="pixel_shuffle", upsample_kernel=3), in_channels=4,
                                 out_channels=2, scale_factor=2)
    assert type(layer) is PixelShufflePack
    assert list(layer.state_dict()) == ["upsample_conv.weight", "upsample_conv.bias"]
    bound = (6 / (4 * 9 + 8 * 9)) ** 0.5
    assert 0.9 * bound < layer.upsample_conv.weight.abs().max() <= bound
    assert not layer.upsample_conv.bias.any()
    x = torch.randn(2, 4, 3, 5)
    out = layer(x)
    assert out.shape == (2, 2, 6, 10)
    # Channel c * 4 + 2 * i + j of the convolution is pixel (2y + i, 2x + j).
    torch.testing.assert_close(out[:, 1, 1::2, 0::2], layer.upsample_conv(x)[:, 6])


def test_dropout():
    assert isinstance(build_dropout(dict(type="Dropout")), nn.Dropout)
    layer = build_dropout(dict(type="Dropout", drop_prob=0.3), default_args=dict(inplace=True))
    assert type(layer) is Dropout
    assert (layer.p, layer.inplace) == (0.3, True)
    path = build_dropout(dict(type="DropPath"))
    assert type(path) is DropPath
    assert path.drop_prob == 0.1
    with pytest.raises(ValueError, match=r"drop_prob must be at least 0 and below 1, got 1.5"):
        build_dropout(dict(type="DropPath", drop_prob=1.5))


def test_drop_path():
    x = torch.rand(64, 3, 2) + 1
    layer = DropPath(0.25)
    torch.manual_seed(3)
    out = layer(x)
    torch.manual_seed(3)
    kept = (0.75 + torch.rand(64, 1, 1)).floor()
    torch.testing.assert_close(out, x / 0.75 * kept)
    assert 0 < kept.sum() < 64
    assert layer.eval()(x) is x
    assert drop_path(x, 0.0, training=True) is x


def test_plugin(registered):
    name, layer = build_plugin_layer(dict(type="ContextBlock", ratio=0.25), postfix="_1",
                                     in_channels=8)
    assert name == "context_block_1"
    assert type(layer) is cnn.ContextBlock
    assert build_plugin_layer(dict(type="NonLocal2d"), in_channels=8)[0] == "nonlocal_block"
    assert build_plugin_layer(dict(type="GeneralizedAttention", num_heads=2), 1,
                              in_channels=8)[0] == "gen_attention_block1"
    assert build_plugin_layer(dict(type="ConvModule", kernel_size=1), in_channels=8,
                              out_channels=4)[0] == "conv_block"

    for word, snake in (("FancyBlock", "fancy_block"), ("SEBlock2d", "se_block2d"),
                        ("HTTPServer", "http_server"), ("A2B", "a2_b")):
        registered(PLUGIN_LAYERS, type(word, (nn.Identity,), {}))
        assert build_plugin_layer(dict(type=word))[0] == snake
    with pytest.raises(TypeError, match="postfix must be an int or a str, got NoneType"):
        build_plugin_layer(dict(type="ContextBlock", ratio=1), postfix=None, in_channels=8)


@pytest.mark.parametrize(("build", "what", "near"), [
    (lambda cfg: build_conv_layer(cfg, 1, 1, 1), "conv layer", "Conv2d"),
    (lambda cfg: build_norm_layer(cfg, 1), "norm layer", "SyncBN"),
    (build_activation_layer, "activation layer", "LeakyReLU"),
    (lambda cfg: build_padding_layer(cfg, 1), "padding layer", "reflect"),
    (build_upsample_layer, "upsample layer", "bilinear"),
    (build_plugin_layer, "plugin layer", "ContextBlock"),
    (build_dropout, "dropout layer", "DropPath")])
def test_bad_configs(build, what, near):
    with pytest.raises(TypeError, match=f"a {what} config must be a dict, got str: 'x'"):
        build("x")
    with pytest.raises(KeyError, match=re.escape(f"a {what} config needs the key 'type'")):
        build(dict(a=1))
    with pytest.raises(KeyError, match=f"is not in the {what} registry; did you mean .*{near}"):
        build(dict(type=near[:-1] + "x"))
    with pytest.raises(TypeError, match=f"'type' in a {what} config must be a name or a class"):
        build(dict(type=1))


def test_user_conv_is_found_by_name(registered):
    class TwiceConv(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    registered(CONV_LAYERS, TwiceConv)
    block = cnn.ConvModule(3, 4, 1, conv_cfg=dict(type="TwiceConv"), act_cfg=None)
    x = torch.randn(1, 3, 2, 2)
    torch.testing.assert_close(block(x), 2 * F.conv2d(x, block.conv.weight, block.conv.bias))


def test_revert_sync_batchnorm():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.SyncBatchNorm(4, eps=1e-3)),
                          nn.BatchNorm2d(4))
    model[1][0].running_mean.normal_()
    model.eval()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    expect = model[2](F.batch_norm(model[0](x := torch.randn(2, 3, 4, 4)),
                                   state["1.0.running_mean"], state["1.0.running_var"],
                                   eps=1e-3))
    reverted = revert_sync_batchnorm(model)
    assert reverted is model
    assert not any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
    assert not model[1][0].training
    assert {k: v.tolist() for k, v in model.state_dict().items()} == {
        k: v.tolist() for k, v in state.items()}
    torch.testing.assert_close(model(x), expect)
    single = revert_sync_batchnorm(nn.SyncBatchNorm(4, affine=False, track_running_stats=False))
    assert single(torch.randn(2, 4, 3)).shape == (2, 4, 3)
