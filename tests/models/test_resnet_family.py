"""ResNeXt, RegNet, Res2Net, ResNeSt, TridentNet, HRNet and DetectoRS's backbones."""

import doctest
import importlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fastdet.models import (
    DetectoRS_ResNet,
    DetectoRS_ResNeXt,
    HRNet,
    RegNet,
    Res2Net,
    ResNeSt,
    ResNet,
    ResNeXt,
    TridentResNet,
)
from fastdet.models.backbones.hrnet import HRModule
from fastdet.models.backbones.res2net import Bottle2neck
from fastdet.models.backbones.resnest import Bottleneck as ResNeStBottleneck
from fastdet.models.backbones.resnest import RSoftmax, SplitAttentionConv2d
from fastdet.models.backbones.resnet import BasicBlock, Bottleneck
from fastdet.models.backbones.trident_resnet import TridentBottleneck, TridentConv

TWO = {"num_stages": 2, "strides": (1, 2), "dilations": (1, 1), "out_indices": (0, 1)}


@pytest.mark.parametrize("name", [
    "backbones.resnet", "backbones.regnet", "backbones.res2net", "backbones.hrnet", "necks.fpn"])
def test_examples_of_the_documentation(name):
    result = doctest.testmod(importlib.import_module(f"fastdet.models.{name}"))
    assert result.failed == 0
    assert result.attempted > 0


@pytest.mark.parametrize(("cls", "args"), [
    (ResNeXt, {"depth": 50, "groups": 4, "base_width": 4, "base_channels": 16}),
    (Res2Net, {"depth": 50, "scales": 3, "base_width": 26}),
    (ResNeSt, {"depth": 50, "base_channels": 32, "radix": 2, "groups": 2}),
    (DetectoRS_ResNet, {"depth": 50, "base_channels": 8}),
])
def test_checkpointed_family_has_the_same_gradients(cls, args):
    plain, cp = (cls(**args, **TWO, with_cp=with_cp) for with_cp in (False, True))
    cp.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 32, 32)
    for net in (plain, cp):
        sum(out.square().mean() for out in net(x)).backward()
    for a, b in zip(plain.parameters(), cp.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize(("cls", "known"), [
    (ResNeXt, "50, 101, 152"), (Res2Net, "50, 101, 152"), (ResNeSt, "50, 101, 152, 200"),
    (DetectoRS_ResNet, "50, 101, 152"), (DetectoRS_ResNeXt, "50, 101, 152")])
def test_unknown_depth_names_the_known_ones(cls, known):
    with pytest.raises(KeyError, match=f"{cls.__name__} has no depth 18; known are {known}"):
        cls(depth=18)


# ---------------------------------------------------------------- ResNeXt, RegNet

def test_resnext_groups_and_widths():
    net = ResNeXt(depth=50, groups=32, base_width=4)
    for i, name in enumerate(net.res_layers):
        conv = getattr(net, name)[0].conv2
        assert (conv.groups, conv.in_channels, conv.out_channels) == (32, 128 * 2**i, 128 * 2**i)
    net = ResNeXt(depth=50, **TWO)
    assert (net.layer1[0].conv2.groups, net.layer1[0].conv2.in_channels) == (1, 64)


def test_regnet_stages_follow_from_its_parameters():
    net = RegNet("regnetx_400mf")
    assert net.stage_widths == [32, 64, 160, 384]
    assert net.stage_blocks == (1, 2, 7, 12)
    assert [getattr(net, n)[0].conv2.groups for n in net.res_layers] == [2, 4, 10, 24]
    assert net.conv1.kernel_size == (3, 3)
    assert [tuple(o.shape[1:]) for o in net(torch.rand(1, 3, 64, 64))] == [
        (32, 16, 16), (64, 8, 8), (160, 4, 4), (384, 2, 2)]


@pytest.mark.parametrize("arch", sorted(RegNet.arch_settings))
def test_regnet_widths_are_whole_groups(arch):
    params = RegNet.arch_settings[arch]
    net = RegNet.__new__(RegNet)
    widths, num_stages = net.generate_regnet(params["w0"], params["wa"], params["wm"],
                                             params["depth"])
    stage_widths, blocks = net.get_stages_from_blocks(widths)
    assert len(stage_widths) == num_stages == 4
    assert sum(blocks) == params["depth"]
    stage_widths, groups = net.adjust_width_group(stage_widths, [1.0] * 4, [params["group_w"]] * 4)
    assert all(w % g == 0 for w, g in zip(stage_widths, groups))


def test_regnet_group_width_is_capped_and_width_is_rounded():
    net = RegNet.__new__(RegNet)
    assert net.adjust_width_group([24, 56], [1.0, 1.0], [48, 48]) == ([24, 48], [24, 48])
    assert net.quantize_float(36, 24) == 48  # halves to even
    assert net.get_stages_from_blocks([8, 8, 16, 24, 24, 24]) == ([8, 16, 24], [2, 1, 3])


def test_regnet_with_a_deep_stem_and_another_ratio():
    arch = {"w0": 16, "wa": 20.0, "wm": 2.5, "group_w": 4, "depth": 6, "bot_mul": 0.5}
    net = RegNet(arch, strides=(2,) * 3, dilations=(1,) * 3, out_indices=(0, 1, 2), deep_stem=True)
    assert net.stem(torch.rand(1, 3, 32, 32)).shape == (1, 32, 16, 16)
    for name, width in zip(net.res_layers, net.stage_widths):
        assert getattr(net, name)[0].conv2.in_channels == width / 2
    assert [o.shape[1] for o in net(torch.rand(1, 3, 32, 32))] == net.stage_widths


def test_regnet_init_zeroes_the_last_norms():
    net = RegNet("regnetx_400mf")
    net.init_weights()
    assert all(b.norm3.weight.eq(0).all() for b in net.layer3)
    assert net.layer3[0].norm2.weight.eq(1).all()


@pytest.mark.parametrize(("arch", "error", "message"), [
    ("regnetx_1gf", KeyError, "no architecture 'regnetx_1gf'; known are regnetx_400mf"),
    (400, TypeError, "got int"),
    ({"w0": 24}, KeyError, "arch lacks bot_mul, depth, group_w, wa, wm"),
    ({"w0": 25, "wa": 24, "wm": 2.5, "group_w": 8, "depth": 9, "bot_mul": 1.0}, ValueError,
     "positive multiple of 8"),
])
def test_bad_regnet(arch, error, message):
    with pytest.raises(error, match=message):
        RegNet(arch)


# ---------------------------------------------------------------- Res2Net

@pytest.mark.parametrize(("stage_type", "stride"), [("normal", 1), ("stage", 1), ("stage", 2)])
def test_res2net_block_is_a_chain_of_slices(stage_type, stride):
    block = Bottle2neck(32, 8, scales=3, base_width=32, stage_type=stage_type, stride=stride,
                        downsample=nn.Identity() if stride == 1 else nn.AvgPool2d(2)).eval()
    x = torch.randn(1, 32, 6, 6)
    a, b, c = block.bn1(block.conv1(x)).relu().chunk(3, 1)
    first = block.bns[0](block.convs[0](a)).relu()
    second = block.bns[1](block.convs[1](b if stage_type == "stage" else first + b)).relu()
    if stride == 2:
        c = F.avg_pool2d(c, 3, stride=2, padding=1)
    out = block.bn3(block.conv3(torch.cat([first, second, c], 1)))
    torch.testing.assert_close(block(x), (out + block.downsample(x)).relu())
    assert not hasattr(block, "conv2")


def test_res2net_first_block_of_a_stage():
    net = Res2Net(depth=50, **TWO)
    assert [b.stage_type for b in net.layer2] == ["stage", "normal", "normal", "normal"]
    assert isinstance(net.layer1[0].downsample[0], nn.AvgPool2d)
    assert net.deep_stem


def test_res2net_says_what_it_does_not_follow():
    with pytest.warns(UserWarning, match="deep_stem=False.*not followed"):
        assert Res2Net(depth=50, deep_stem=False, **TWO).deep_stem


@pytest.mark.parametrize(("args", "message"), [
    ({"scales": 1}, "at least two scales, got 1"), ({"stage_type": "last"}, "got 'last'")])
def test_bad_res2net_block(args, message):
    with pytest.raises(ValueError, match=message):
        Bottle2neck(32, 8, **args)


# ---------------------------------------------------------------- ResNeSt

@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("radix", [1, 2, 3])
def test_split_attention_is_its_formula(radix, groups):
    conv = SplitAttentionConv2d(12, 12, 3, padding=1, radix=radix, groups=groups).eval()
    x = torch.randn(2, 12, 5, 7)
    u = conv.norm0(conv.conv(x)).relu().view(2, radix, 12, 5, 7)
    gap = u.sum(1).mean((2, 3), keepdim=True)
    logits = conv.fc2(conv.norm1(conv.fc1(gap)).relu()).view(2, groups, radix, 12 // groups)
    weight = logits.softmax(2) if radix > 1 else logits.sigmoid()
    weight = weight.transpose(1, 2).reshape(2, radix, 12, 1, 1)
    torch.testing.assert_close(conv(x), (u * weight).sum(1))


def test_rsoftmax_weights_sum_to_one_over_the_splits():
    weights = RSoftmax(3, 2)(torch.randn(4, 3 * 2 * 5, 1, 1))
    assert weights.shape == (4, 30)
    torch.testing.assert_close(weights.view(4, 3, 10).sum(1), torch.ones(4, 10))


def test_resnest_stride_sits_in_the_pooling():
    block = ResNeStBottleneck(32, 8, stride=2, downsample=nn.AvgPool2d(2))
    assert block.conv2.conv.stride == (1, 1)
    assert block.avd_layer.stride == 2
    assert block(torch.randn(2, 32, 8, 8)).shape == (2, 32, 4, 4)
    block = ResNeStBottleneck(32, 8, stride=2, downsample=nn.AvgPool2d(2), avg_down_stride=False)
    assert block.conv2.conv.stride == (2, 2)
    assert not hasattr(block, "avd_layer")
    assert not ResNeStBottleneck(32, 8).avg_down_stride


def test_split_attention_takes_dcn_or_conv_cfg():
    with pytest.raises(ValueError, match="conv_cfg must be None where dcn"):
        SplitAttentionConv2d(4, 4, 3, conv_cfg={"type": "Conv2d"}, dcn={"type": "DCN"})


# ---------------------------------------------------------------- TridentNet

def trident(**kwargs):
    args = {"depth": 50, "num_branch": 3, "test_branch_idx": 1, "trident_dilations": (1, 2, 3),
            "base_channels": 8, "num_stages": 3, "strides": (1, 2, 2), "dilations": (1, 1, 1),
            "out_indices": (2,)}
    return TridentResNet(**(args | kwargs))


@pytest.mark.parametrize(("training", "test_branch_idx", "branches"), [
    (True, 1, (0, 1, 2)), (False, -1, (0, 1, 2)), (False, 0, (0,)), (False, 2, (2,))])
def test_trident_branches(training, test_branch_idx, branches):
    conv = TridentConv(4, 5, 3, trident_dilations=(1, 2, 3), test_branch_idx=test_branch_idx,
                       bias=True).train(training)
    xs = [torch.randn(1, 4, 9, 9) for _ in branches]
    outs = conv(xs)
    assert len(outs) == len(branches)
    for x, out, b in zip(xs, outs, branches):
        want = F.conv2d(x, conv.weight, conv.bias, padding=b + 1, dilation=b + 1)
        assert torch.equal(out, want)


@pytest.mark.parametrize("norm_eval", [True, False])
def test_trident_block_is_one_bottleneck_per_dilation(norm_eval):
    """Also where the first block computes what the branches share only once."""
    block = TridentBottleneck((1, 2), -1, True, inplanes=32, planes=8,
                              downsample=nn.Conv2d(32, 32, 1))
    block.train()
    if norm_eval:
        for m in block.modules():
            if isinstance(m, _BatchNorm):
                m.eval()
    twins = []
    for dilation in (1, 2):
        twin = Bottleneck(32, 8, dilation=dilation, downsample=nn.Conv2d(32, 32, 1))
        twin.load_state_dict(block.state_dict())
        for a, b in zip(twin.modules(), block.modules()):
            a.training = b.training
        twins.append(twin)
    x = torch.randn(2, 32, 8, 8, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    out, want = block(x), torch.cat([twin(y) for twin in twins])
    torch.testing.assert_close(out, want)
    out.square().sum().backward()
    want.square().sum().backward()
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(block.conv1.weight.grad,
                               sum(twin.conv1.weight.grad for twin in twins))
    tracked = block.norm1.num_batches_tracked.item()
    assert tracked == (0 if norm_eval else 2)


def test_trident_network():
    net = trident()
    x = torch.randn(2, 3, 32, 32)
    assert net.train()(x)[0].shape == (6, 128, 2, 2)
    assert net.eval()(x)[0].shape == (2, 128, 2, 2)
    assert trident(test_branch_idx=-1).eval()(x)[0].shape == (6, 128, 2, 2)
    plain = ResNet(50, base_channels=8, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1),
                   out_indices=(2,))
    assert list(net.state_dict()) == list(plain.state_dict())
    assert [b.concat_output for b in net.layer3] == [False] * 5 + [True]


def test_trident_checkpointing_and_init():
    plain, cp = trident(), trident(with_cp=True)
    plain.init_weights()
    cp.load_state_dict(plain.state_dict())
    x = torch.randn(1, 3, 32, 32)
    for net in (plain, cp):
        net.train()(x)[0].square().mean().backward()
    for a, b in zip(plain.parameters(), cp.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize(("args", "error", "message"), [
    ({"num_stages": 4}, ValueError, "three stages, got num_stages=4"),
    ({"num_branch": 2}, ValueError, "trident_dilations must have num_branch=2 entries"),
    ({"test_branch_idx": 3}, ValueError, "test_branch_idx must be -1 to 2"),
    ({"depth": 18}, KeyError, "no depth 18; known are 50, 101, 152"),
])
def test_bad_trident(args, error, message):
    with pytest.raises(error, match=message):
        trident(**args)


# ---------------------------------------------------------------- HRNet

def hr_extra(**changes):
    stages = [(1, "BOTTLENECK", (8,)), (1, "BASIC", (4, 8)), (2, "BASIC", (4, 8, 16)),
              (1, "BASIC", (4, 8, 16, 32))]
    extra = {f"stage{i + 1}": {
        "num_modules": n, "num_branches": i + 1, "block": block, "num_blocks": (1,) * (i + 1),
        "num_channels": channels} for i, (n, block, channels) in enumerate(stages)}
    extra["stage2"].update(changes)
    return extra


@pytest.mark.parametrize("multiscale", [True, False])
def test_hr_module_sums_over_the_branches(multiscale):
    module = HRModule(3, BasicBlock, (1, 1, 1), [4, 8, 16], (4, 8, 16), multiscale).eval()
    xs = [torch.randn(1, 4 * 2**i, 16 // 2**i, 16 // 2**i) for i in range(3)]
    given = [x.clone() for x in xs]
    ys = [branch(x) for branch, x in zip(module.branches, xs)]
    outs = module(xs)
    assert len(outs) == (3 if multiscale else 1)
    for i, out in enumerate(outs):
        want = sum(y if i == j else module.fuse_layers[i][j](y) for j, y in enumerate(ys))
        torch.testing.assert_close(out, want.relu())
    for x, before in zip(xs, given):
        assert torch.equal(x, before)


def test_hr_module_widths_and_single_branch():
    channels = [8]
    module = HRModule(1, Bottleneck, (2,), channels, (4,))
    assert channels == [16]
    assert module.fuse_layers is None
    (out,) = module([torch.randn(1, 8, 4, 4)])
    assert out.shape == (1, 16, 4, 4)
    with pytest.raises(ValueError, match="num_blocks must have num_branches=2 entries"):
        HRModule(2, BasicBlock, (1,), [4, 4], (4, 4))


@pytest.mark.parametrize("norm_eval", [True, False])
def test_hrnet(norm_eval):
    net = HRNet(hr_extra(), norm_eval=norm_eval, zero_init_residual=True)
    net.init_weights()
    # ``zero_init_residual`` does nothing in MMDetection's HRNet.
    assert net.stage3[0].branches[1][0].norm2.weight.eq(1).all()
    assert net.layer1[0].norm3.weight.eq(1).all()
    assert net.train() is net
    assert any(m.training for m in net.modules() if isinstance(m, _BatchNorm)) != norm_eval
    outs = net(torch.randn(2, 3, 64, 96))
    assert [tuple(o.shape) for o in outs] == [
        (2, 4 * 2**i, 16 // 2**i, 24 // 2**i) for i in range(4)]
    assert net.transition1[0] is not None
    assert net.transition2[0] is None
    (out,) = HRNet(hr_extra(), multiscale_output=False)(torch.randn(1, 3, 64, 64))
    assert out.shape == (1, 4, 16, 16)


@pytest.mark.parametrize(("extra", "error", "message"), [
    ({"stage1": hr_extra()["stage1"]}, ValueError, "stage2 is missing"),
    (hr_extra(num_blocks=(1,)), ValueError, "num_blocks of stage2 must have num_branches=2"),
    (hr_extra(block="SIMPLE"), KeyError, "stage2 of HRNet has no block 'SIMPLE'; known"),
])
def test_bad_hrnet(extra, error, message):
    with pytest.raises(error, match=message):
        HRNet(extra)


# ---------------------------------------------------------------- DetectoRS

class Marked(nn.Conv2d):
    """Stands in for a switchable atrous convolution."""


SAC = {"type": Marked}


@pytest.mark.parametrize("cls", [DetectoRS_ResNet, DetectoRS_ResNeXt])
def test_detectors_sac_and_feedback_go_to_their_stages(cls):
    args = {"depth": 50, "base_channels": 16, **TWO}
    if cls is DetectoRS_ResNeXt:
        args |= {"groups": 2, "base_width": 8}
    net = cls(sac=SAC, stage_with_sac=(False, True), rfp_inplanes=6, output_img=True, **args)
    assert not any(isinstance(b.conv2, Marked) for b in net.layer1)
    assert all(isinstance(b.conv2, Marked) for b in net.layer2)
    assert net.layer2[0].conv2.groups == args.get("groups", 1)
    assert [hasattr(b, "rfp_conv") for b in [*net.layer1, *net.layer2]] == [False] * 3 + [True] + [
        False] * 3

    x = torch.randn(1, 3, 32, 32)
    image, *plain = net.eval()(x)
    assert image is x
    feats = [torch.randn(1, 6, 8, 8), torch.randn(1, 6, 4, 4)]
    nn.init.zeros_(net.layer2[0].rfp_conv.weight)
    nn.init.zeros_(net.layer2[0].rfp_conv.bias)
    for a, b in zip(plain, net.rfp_forward(x, feats), strict=True):
        torch.testing.assert_close(a, b)


def test_detectors_feedback_is_added_before_the_relu():
    net = DetectoRS_ResNet(depth=50, base_channels=16, rfp_inplanes=6, **TWO).eval()
    block = net.layer2[0]
    x, feat = torch.randn(1, 64, 8, 8), torch.randn(1, 6, 4, 4)
    wanted = (block._residual(x) + block.rfp_conv(feat)).relu()
    torch.testing.assert_close(block.rfp_forward(x, feat), wanted)


def test_detectors_init_weights(tmp_path):
    net = DetectoRS_ResNet(depth=50, base_channels=16, rfp_inplanes=6, **TWO)
    net.init_weights()
    assert all(b.norm3.weight.eq(0).all() for b in net.layer1)
    assert net.bn1.weight.eq(1).all()
    path = str(tmp_path / "weights.pth")
    torch.save(net.state_dict(), path)
    for how in ({"pretrained": path}, {"init_cfg": {"type": "Pretrained", "checkpoint": path}}):
        other = DetectoRS_ResNet(depth=50, base_channels=16, rfp_inplanes=6, **TWO, **how)
        other.init_weights()
        assert torch.equal(other.layer2[0].rfp_conv.weight, net.layer2[0].rfp_conv.weight)


@pytest.mark.parametrize(("args", "error", "message"), [
    ({"pretrained": "a", "init_cfg": {"type": "Pretrained", "checkpoint": "a"}}, ValueError,
     "cannot be given together"),
    ({"init_cfg": {"type": "Kaiming"}}, ValueError, "must be of type 'Pretrained'"),
    ({"pretrained": 1}, TypeError, "string or None, got int"),
    ({"sac": SAC, "stage_with_sac": (True,)}, ValueError, "stage_with_sac must have num_stages=4"),
    ({"sac": "SAC", "stage_with_sac": (True,) * 4}, TypeError, "sac must be a config dict"),
])
def test_bad_detectors(args, error, message):
    with pytest.raises(error, match=message):
        DetectoRS_ResNet(depth=50, base_channels=8, **args)
