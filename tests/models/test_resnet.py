"""ResNet, its blocks and stages."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastdet.cnn.bricks import PLUGIN_LAYERS
from fastdet.models import ResNet, ResNetV1d
from fastdet.models.backbones.resnet import BasicBlock, Bottleneck
from fastdet.models.utils import (
    ResLayer,
    SimplifiedBasicBlock,
    interpolate_as,
    make_divisible,
    sigmoid_geometric_mean,
)

NARROW = {"base_channels": 8, "num_stages": 2, "strides": (1, 2), "dilations": (1, 1),
          "out_indices": (0, 1)}


@pytest.fixture
def plugin_types():
    """Two plugin layers that multiply by a constant."""
    class Times(nn.Module):
        def __init__(self, in_channels, factor=2.0):
            super().__init__()
            self.in_channels, self.factor = in_channels, factor

        def forward(self, x):
            return x * self.factor

    class Keep(Times):
        def forward(self, x):
            return x

    names = {"TestTimes": Times, "TestKeep": Keep}
    for name, cls in names.items():
        cls._abbr_ = name.lower()
        PLUGIN_LAYERS.register_module(name, module=cls)
    yield
    for name in names:
        del PLUGIN_LAYERS.module_dict[name]


def perturbed(module):
    """Give batch norms other than their initial statistics, so that they do something."""
    with torch.no_grad():
        for m in module.modules():
            if isinstance(m, _BatchNorm):
                m.weight.uniform_(0.5, 1.5)
                m.bias.normal_(std=0.1)
                m.running_mean.normal_(std=0.1)
                m.running_var.uniform_(0.5, 1.5)
    return module


def gradients(module, x):
    x = x.detach().clone().requires_grad_()
    outs = module(x)
    outs = outs if isinstance(outs, (tuple, list)) else [outs]
    sum((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() for out in outs).backward()
    return [x.grad, *(p.grad for p in module.parameters() if p.requires_grad)], outs


# ---------------------------------------------------------------- blocks

@pytest.mark.parametrize(("block", "args"), [
    (BasicBlock, {}), (BasicBlock, {"dilation": 2}), (Bottleneck, {}),
    (Bottleneck, {"style": "caffe"}), (Bottleneck, {"dilation": 2})])
def test_block_is_its_formula(block, args):
    x = torch.randn(2, 8 * block.expansion, 7, 9)
    module = perturbed(block(8 * block.expansion, 8, **args)).eval()
    if block is BasicBlock:
        out = module.bn2(module.conv2(module.bn1(module.conv1(x)).relu()))
    else:
        out = module.bn2(module.conv2(module.bn1(module.conv1(x)).relu())).relu()
        out = module.bn3(module.conv3(out))
    torch.testing.assert_close(module(x), (out + x).relu())


@pytest.mark.parametrize(("style", "strides"), [("pytorch", (1, 2)), ("caffe", (2, 1))])
def test_style_says_which_convolution_strides(style, strides):
    block = Bottleneck(16, 8, stride=2, style=style)
    assert (block.conv1.stride[0], block.conv2.stride[0]) == strides


def test_norms_are_found_whatever_their_type():
    block = Bottleneck(32, 8, norm_cfg={"type": "GN", "num_groups": 2})
    assert (block.norm1, block.norm2, block.norm3) == (block.gn1, block.gn2, block.gn3)
    net = ResNet(18, norm_cfg={"type": "GN", "num_groups": 2}, **NARROW)
    assert net.norm1 is net.gn1
    assert net.layer1[0].norm1 is net.layer1[0].gn1


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_checkpointed_block_has_the_same_gradients(block):
    plain = perturbed(block(8 * block.expansion, 8))
    cp = copy.deepcopy(plain)
    cp.with_cp = True
    x = torch.randn(2, 8 * block.expansion, 5, 6)
    for a, b in zip(gradients(plain, x)[0], gradients(cp, x)[0], strict=True):
        torch.testing.assert_close(a, b)


def test_checkpointed_block_keeps_its_input_and_output_alone():
    block = Bottleneck(32, 8, with_cp=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        block(torch.randn(1, 32, 16, 16, requires_grad=True))
    assert [tuple(t.shape) for t in kept] == [(1, 32, 16, 16)] * 2


def test_simplified_block_ends_without_relu_and_may_have_no_norm():
    x = torch.randn(2, 6, 7, 9)
    block = SimplifiedBasicBlock(6, 6, norm_cfg=None)
    torch.testing.assert_close(block(x), block.conv2(block.conv1(x).relu()) + x)
    assert block.norm1 is None
    assert block.norm2 is None
    block = perturbed(SimplifiedBasicBlock(6, 6)).eval()
    out = block.norm2(block.conv2(block.norm1(block.conv1(x)).relu())) + x
    torch.testing.assert_close(block(x), out)
    assert (out < 0).any()


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: BasicBlock(8, 8, dcn={"type": "DCN"}), ValueError, "takes no dcn and no plugins"),
    (lambda: BasicBlock(8, 8, plugins=[]), ValueError, "takes no dcn and no plugins"),
    (lambda: Bottleneck(8, 8, style="torch"), ValueError, "'pytorch' or 'caffe', got 'torch'"),
    (lambda: Bottleneck(8, 8, dcn="DCN"), TypeError, "config dict or None, got str"),
    (lambda: Bottleneck(8, 8, dcn={"type": "DCN"}, conv_cfg={"type": "Conv2d"}), ValueError,
     "conv_cfg must be None where dcn"),
    (lambda: Bottleneck(8, 8, plugins=[{"cfg": {}, "position": "before_conv1"}]), ValueError,
     "one of.*after_conv1.*got 'before_conv1'"),
    (lambda: SimplifiedBasicBlock(8, 8, with_cp=True), ValueError, "with_cp=True"),
    (lambda: SimplifiedBasicBlock(8, 8, plugins=[{}]), ValueError, "no dcn, plugins or with_cp"),
])
def test_bad_block_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---------------------------------------------------------------- stages

def test_stage_downsamples_in_its_first_block():
    layer = ResLayer(Bottleneck, 8, 4, 3, stride=2)
    assert [b.downsample is not None for b in layer] == [True, False, False]
    assert [b.stride for b in layer] == [2, 1, 1]
    assert layer(torch.randn(1, 8, 6, 8)).shape == (1, 16, 3, 4)
    assert layer.block is Bottleneck


def test_stage_downsamples_in_its_last_block_for_hourglass():
    layer = ResLayer(BasicBlock, 8, 4, 3, stride=2, downsample_first=False)
    assert [b.downsample is not None for b in layer] == [False, False, True]
    assert [b.conv1.out_channels for b in layer] == [8, 8, 4]
    assert layer(torch.randn(1, 8, 6, 8)).shape == (1, 4, 3, 4)


def test_stage_of_equal_shapes_has_no_downsample():
    assert all(b.downsample is None for b in ResLayer(BasicBlock, 8, 8, 2))


def test_avg_down_pools_partial_windows():
    layer = ResLayer(BasicBlock, 4, 8, 1, stride=2, avg_down=True)
    pool, conv, _ = layer[0].downsample
    assert conv.stride == (1, 1)
    x = torch.randn(1, 4, 5, 7)
    assert layer(x).shape == (1, 8, 3, 4)
    torch.testing.assert_close(pool(x)[:, :, 2, 3], x[:, :, 4, 6])


# ---------------------------------------------------------------- the network

@pytest.mark.parametrize(("depth", "channels"), [(18, 8), (34, 8), (50, 32), (101, 32), (152, 32)])
def test_depths(depth, channels):
    net = ResNet(depth, base_channels=8)
    outs = net(torch.randn(1, 3, 64, 96))
    assert [tuple(o.shape) for o in outs] == [
        (1, channels * 2**i, 16 // 2**i, 24 // 2**i) for i in range(4)]
    assert net.feat_dim == channels * 8
    assert net.res_layers == ["layer1", "layer2", "layer3", "layer4"]
    assert tuple(len(getattr(net, n)) for n in net.res_layers) == net.stage_blocks


def test_out_indices_choose_and_order_nothing():
    x = torch.randn(1, 3, 32, 32)
    net = ResNet(18, **NARROW).eval()
    both = net(x)
    net.out_indices = (1,)
    (last,) = net(x)
    assert torch.equal(last, both[1])


def test_dilated_stage_keeps_the_resolution():
    net = ResNet(50, base_channels=8, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))
    assert net(torch.randn(1, 3, 64, 64))[-1].shape == (1, 256, 4, 4)
    assert all(b.conv2.dilation == (2, 2) for b in net.layer4)


def test_v1d_has_a_deep_stem_and_pools():
    net = ResNetV1d(depth=50, **NARROW, stem_channels=16)
    assert [m.out_channels for m in net.stem if isinstance(m, nn.Conv2d)] == [8, 8, 16]
    assert isinstance(net.layer2[0].downsample[0], nn.AvgPool2d)
    assert not hasattr(net, "conv1")
    outs = net(torch.randn(1, 3, 32, 32))
    assert [tuple(o.shape) for o in outs] == [(1, 32, 8, 8), (1, 64, 4, 4)]


def test_checkpointed_network_has_the_same_gradients():
    plain = perturbed(ResNet(18, **NARROW))
    cp = ResNet(18, with_cp=True, **NARROW)
    cp.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 32, 48)
    (ga, oa), (gb, ob) = gradients(plain, x), gradients(cp, x)
    for a, b in zip([*ga, *oa], [*gb, *ob], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("deep_stem", [False, True])
@pytest.mark.parametrize("frozen", [-1, 0, 1, 2])
def test_frozen_stages(frozen, deep_stem):
    net = ResNet(18, frozen_stages=frozen, norm_eval=False, deep_stem=deep_stem, **NARROW)
    stem = ("stem.",) if deep_stem else ("conv1.", "bn1.")
    prefixes = (*(stem if frozen >= 0 else ()), *(f"layer{i}." for i in range(1, frozen + 1)))
    assert net.train() is net
    for name, p in net.named_parameters():
        assert p.requires_grad != name.startswith(prefixes), name
    for name, m in net.named_modules():
        if isinstance(m, _BatchNorm):
            assert m.training != f"{name}.".startswith(prefixes), name


@pytest.mark.parametrize("norm_eval", [False, True])
def test_norm_eval_holds_the_statistics_in_training(norm_eval):
    net = ResNet(18, norm_eval=norm_eval, **NARROW).train()
    before = net.bn1.running_mean.clone()
    net(torch.randn(2, 3, 32, 32))
    assert torch.equal(before, net.bn1.running_mean) == norm_eval
    assert net.training
    assert net.layer1[0].relu.training
    assert not any(m.training for m in net.eval().modules())


def test_plugin_stages_and_positions(plugin_types):
    plugins = [
        {"cfg": {"type": "TestTimes"}, "stages": (False, True), "position": "after_conv1"},
        {"cfg": {"type": "TestTimes", "postfix": "_a"}, "position": "after_conv2"},
        {"cfg": {"type": "TestKeep", "postfix": "_b"}, "position": "after_conv3"},
        {"cfg": {"type": "TestTimes", "postfix": "_c", "factor": 3.0}, "position": "after_conv3"}]
    given = copy.deepcopy(plugins)
    net = ResNet(50, plugins=plugins, **NARROW)
    assert plugins == given
    first, second = net.layer1[0], net.layer2[0]
    assert first.after_conv1_plugin_names == []
    assert second.after_conv1_plugin_names == ["testtimes"]
    assert second.after_conv2_plugin_names == ["testtimes_a"]
    assert second.after_conv3_plugin_names == ["testkeep_b", "testtimes_c"]
    assert (second.testtimes.in_channels, second.testtimes_a.in_channels,
            second.testtimes_c.in_channels) == (16, 16, 64)

    block = perturbed(net.layer2[1]).eval()
    x = torch.randn(1, 64, 4, 4)
    out = 2 * block.bn1(block.conv1(x)).relu()
    out = 2 * block.bn2(block.conv2(out)).relu()
    torch.testing.assert_close(block(x), (3 * block.bn3(block.conv3(out)) + x).relu())


def test_make_stage_plugins_selects_by_stage():
    plugins = [
        {"cfg": {"type": "xxx"}, "stages": (False, True, True, True), "position": "after_conv2"},
        {"cfg": {"type": "yyy"}, "position": "after_conv3"},
        {"cfg": {"type": "zzz", "postfix": "1"}, "stages": (True,) * 4, "position": "after_conv3"}]
    net = ResNet(depth=18, base_channels=8)
    assert [p["cfg"]["type"] for p in net.make_stage_plugins(plugins, 0)] == ["yyy", "zzz"]
    assert [p["cfg"]["type"] for p in net.make_stage_plugins(plugins, 1)] == ["xxx", "yyy", "zzz"]
    assert all("stages" not in p for p in net.make_stage_plugins(plugins, 1))
    assert "stages" in plugins[0]


def test_twin_plugins_need_a_postfix(plugin_types):
    twins = [{"cfg": {"type": "TestTimes"}, "position": "after_conv3"}] * 2
    with pytest.raises(ValueError, match=r"testtimes.*another postfix"):
        ResNet(50, plugins=twins, **NARROW)


def test_init_weights():
    net = ResNet(50, **NARROW)
    net.init_weights()
    conv = net.layer2[0].conv2
    assert conv.weight.std().item() == pytest.approx((2 / (16 * 9)) ** 0.5, rel=0.1)
    for block in [*net.layer1, *net.layer2]:
        assert block.norm1.weight.eq(1).all()
        assert block.norm2.weight.eq(1).all()
        assert block.norm3.weight.eq(0).all()
    net = ResNet(50, zero_init_residual=False, **NARROW)
    net.init_weights()
    assert net.layer1[0].norm3.weight.eq(1).all()
    net = ResNet(18, **NARROW)
    net.init_weights()
    assert net.layer1[0].norm2.weight.eq(0).all()


def test_pretrained_is_init_cfg(tmp_path):
    source = perturbed(ResNet(18, **NARROW))
    path = str(tmp_path / "weights.pth")
    torch.save(source.state_dict(), path)
    with pytest.warns(DeprecationWarning, match="pretrained is deprecated"):
        net = ResNet(18, pretrained=path, **NARROW)
    assert net.init_cfg == {"type": "Pretrained", "checkpoint": path}
    net.init_weights()
    for a, b in zip(source.state_dict().values(), net.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="cannot be given together"):
        ResNet(18, pretrained=path, init_cfg={"type": "Pretrained", "checkpoint": path})
    with pytest.raises(TypeError, match="string or None, got bool"):
        ResNet(18, pretrained=True)


@pytest.mark.parametrize(("args", "error", "message"), [
    ({"depth": 20}, KeyError, "ResNet has no depth 20; known are 18, 34, 50, 101, 152"),
    ({"num_stages": 0}, ValueError, "num_stages must be 1 to 4, got 0"),
    ({"num_stages": 5}, ValueError, "num_stages must be 1 to 4, got 5"),
    ({"num_stages": 3}, ValueError, "strides must have num_stages=3 entries"),
    ({"dilations": (1, 1)}, ValueError, "dilations must have num_stages=4 entries"),
    ({"out_indices": (4,)}, ValueError, "out_indices must be 0 to 3"),
    ({"out_indices": (-1,)}, ValueError, "out_indices must be 0 to 3"),
    ({"frozen_stages": 5}, ValueError, "frozen_stages must be at most num_stages=4"),
    ({"depth": 50, "dcn": {"type": "DCN"}, "stage_with_dcn": (True,)}, ValueError,
     "stage_with_dcn must have num_stages=4 entries"),
    ({"depth": 50, "plugins": [{"cfg": {}, "stages": (True,), "position": "after_conv1"}]},
     ValueError, "stages of a plugin must have num_stages=4 entries"),
    ({"plugins": []}, ValueError, "BasicBlock.*takes no dcn and no plugins"),
])
def test_bad_arguments(args, error, message):
    with pytest.raises(error, match=message):
        ResNet(**{"depth": 18, "base_channels": 8} | args)


# ---------------------------------------------------------------- deformable convolution's wiring

class Deformable(nn.Conv2d):
    """Stands in for a deformable convolution: it keeps the arguments it was given."""

    def __init__(self, *args, deform_groups=1, **kwargs):
        super().__init__(*args, **kwargs)
        self.deform_groups = deform_groups


def test_dcn_goes_to_the_stages_that_have_it():
    dcn = {"type": Deformable, "deform_groups": 2, "fallback_on_stride": False}
    given = dict(dcn)
    net = ResNet(50, dcn=dcn, stage_with_dcn=(False, True), **NARROW)
    assert dcn == given
    assert not any(isinstance(b.conv2, Deformable) for b in net.layer1)
    assert all(b.conv2.deform_groups == 2 and b.conv2.bias is None for b in net.layer2)
    assert not isinstance(net.layer2[0].conv1, Deformable)


def test_dcn_falls_back_in_the_first_block_only():
    """MMDetection's blocks pop the key from the config that they share."""
    dcn = {"type": Deformable, "fallback_on_stride": True}
    net = ResNet(50, dcn=dcn, stage_with_dcn=(True, True), **NARROW)
    kinds = [isinstance(b.conv2, Deformable) for b in [*net.layer1, *net.layer2]]
    assert kinds == [False] + [True] * 6
    assert dcn["fallback_on_stride"]


# ---------------------------------------------------------------- functions

def test_interpolate_as_returns_the_source_of_equal_size():
    x = torch.randn(1, 2, 4, 5)
    assert interpolate_as(x, torch.empty(7, 4, 5)) is x
    assert interpolate_as(x[0], torch.empty(8, 10), mode="nearest", align_corners=None).shape == (
        2, 8, 10)
    with pytest.raises(ValueError, match="3 or 4 dimensions"):
        interpolate_as(x[0, 0], x)


def test_make_divisible():
    assert [make_divisible(v, 8) for v in (1, 11, 12, 18, 33.3)] == [8, 16, 16, 24, 32]
    assert make_divisible(18, 8, min_ratio=0.5) == 16
    assert make_divisible(3, 8, min_value=16) == 16


def test_sigmoid_geometric_mean_gradient():
    x, y = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(sigmoid_geometric_mean, (x, y))
    assert torch.autograd.gradgradcheck(sigmoid_geometric_mean, (x, y))
    low = torch.full((2,), -80.0, requires_grad=True)
    sigmoid_geometric_mean(low, low).sum().backward()
    assert low.grad.isfinite().all()
    with pytest.raises(ValueError, match="one shape"):
        sigmoid_geometric_mean(x, y[0])
