"""Facts of MMDetection 2.26.0 and mmcv 1.7.2, recorded by running them, beyond the golden records.

Numbers that follow a seed come from torch's CPU generator.
"""

import pytest
import torch
from torch import nn

from fastdet import models
from fastdet.cnn import ConvAWS2d, ConvModule
from fastdet.cnn.bricks.transformer import FFN, BaseTransformerLayer, MultiheadAttention
from fastdet.models.backbones import hourglass, hrnet, resnest, resnet, trident_resnet
from fastdet.models.backbones.pvt import MixFFN
from fastdet.runner import load_state_dict


def moments(tensor):
    tensor = tensor.detach().double()
    return tensor.mean().item(), tensor.std(unbiased=False).item()


def test_an_hourglass_has_plain_norms_below_its_first_level():
    norm_cfg = dict(type="BN", eps=0.5)
    module = hourglass.HourglassModule(2, (8, 12, 16), (1, 1, 2), norm_cfg=norm_cfg)
    eps = {name: m.eps for name, m in module.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert {name for name, e in eps.items() if e == 1e-5} == {n for n in eps if "low2." in n}
    net = models.HourglassNet(2, 1, (8, 8, 12), (1, 1, 2), feat_channel=8, norm_cfg=norm_cfg)
    assert net.hourglass_modules[0].up1[0].norm1.eps == 1e-5
    assert net.out_convs[0].norm.eps == net.stem[0].norm.eps == net.inters[0].norm1.eps == 0.5


@pytest.mark.parametrize("init_cfg", [[], {}])
@pytest.mark.parametrize("depth", [18, 50])
def test_an_empty_init_cfg_leaves_the_weights_as_drawn(depth, init_cfg):
    net = models.ResNet(depth, base_channels=4, init_cfg=init_cfg)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.init_weights()
    torch.testing.assert_close(net.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "args"), [
    ("RegNet", dict(arch="regnetx_400mf")), ("Darknet", {}), ("MobileNetV2", {}),
    ("ResNeXt", dict(depth=50)), ("SSDVGG", dict(depth=11))])
def test_an_empty_init_cfg_is_not_the_default_one(name, args):
    with torch.device("meta"):
        assert models.build_backbone(dict(type=name, init_cfg=[], **args)).init_cfg == []
        assert models.build_backbone(dict(type=name, **args)).init_cfg


def test_detectors_pools_only_where_it_strides():
    net = models.DetectoRS_ResNet(depth=50, base_channels=4, avg_down=True, strides=(1, 2, 1, 1),
                                  conv_cfg=dict(type="ConvAWS"))
    found = sorted({k.rpartition(".")[0] for k in net.state_dict() if "downsample" in k})
    assert found == [
        "layer1.0.downsample.0", "layer1.0.downsample.1", "layer2.0.downsample.1",
        "layer2.0.downsample.2", "layer3.0.downsample.0", "layer3.0.downsample.1",
        "layer4.0.downsample.0", "layer4.0.downsample.1"]
    load_state_dict(net, net.state_dict(), strict=True)


def test_a_weight_of_another_shape_is_reported_by_conv_aws():
    with pytest.raises(RuntimeError, match="size mismatch for weight"):
        load_state_dict(ConvAWS2d(2, 3, 1), {"weight": torch.ones(3)}, strict=True)


@pytest.mark.parametrize(("steps", "kind"), [(1, tuple), (2, list)])
def test_rfp_returns_a_list_after_feedback(steps, kind):
    neck = models.RFP(steps, dict(
        type="DetectoRS_ResNet", depth=50, base_channels=4, rfp_inplanes=8,
        conv_cfg=dict(type="ConvAWS")), 2, in_channels=[16, 32, 64, 128], out_channels=8,
        num_outs=5).eval()
    outs = neck([torch.rand(1, 3, 64, 64), *(
        torch.rand(1, c, s, s) for c, s in ((16, 16), (32, 8), (64, 4), (128, 2)))])
    assert type(outs) is kind


CARAFE = dict(type="carafe", up_kernel=5, up_group=1, encoder_kernel=3, encoder_dilation=1)


@pytest.mark.parametrize(("args", "want"), [
    (dict(upsample_cfg=dict(type="deconv", upsample_kernel=3)),
     {"lateral_convs.0.conv": (0.08628034970752196, 0.3497843356014239),
      "upsample_modules.0": (0.0001785057502780142, 0.11310376977823515)}),
    (dict(upsample_cfg=CARAFE, norm_cfg=dict(type="BN"), act_cfg=dict(type="ReLU")),
     {"lateral_convs.0.conv": (0.005690694961231202, 0.37004885189853914),
      "fpn_convs.1.conv": (0.009494659437223163, 0.11735315817567941),
      "upsample_modules.0.content_encoder": (-4.4834908470801826e-06, 0.0009979458162729488)})],
    ids=["deconv", "carafe"])
def test_fpn_carafe_draws_as_often(args, want):
    """Its parts initialise themselves before it does, which moves the generator."""
    neck = models.FPN_CARAFE([8, 16], 8, 2, **args)
    torch.manual_seed(0)
    neck.init_weights()
    for name, expected in want.items():
        layer = neck.get_submodule(name)
        assert moments(layer.weight) == pytest.approx(expected, rel=1e-5), name
        assert layer.bias is None or not layer.bias.any()
    assert isinstance(neck.relu, nn.ReLU)


def test_attributes_that_other_code_reads():
    assert FFN(8, 16, act_cfg=dict(type="GELU")).act_cfg == dict(type="GELU")
    assert MultiheadAttention(8, 2).batch_first is False
    layer = BaseTransformerLayer(
        dict(type="MultiheadAttention", embed_dims=8, num_heads=2),
        dict(type="FFN", embed_dims=8), ("self_attn", "norm", "ffn", "norm"))
    assert (layer.num_attn, layer.embed_dims, layer.pre_norm) == (1, 8, False)
    plugin = dict(type="ContextBlock", ratio=0.25)
    block = resnet.Bottleneck(16, 4, plugins=[dict(cfg=plugin, position="after_conv3")])
    assert block.after_conv3_plugins == [plugin]
    assert block.after_conv1_plugins == block.after_conv2_plugins == []
    assert not hasattr(resnet.Bottleneck(16, 4), "after_conv1_plugins")
    conv = resnest.SplitAttentionConv2d(8, 8, 3)
    assert (conv.dcn, conv.with_dcn) == (None, False)
    assert trident_resnet.TridentConv(2, 2, 3).dilations == (1, 2, 3)
    assert hrnet.HRModule(1, resnet.BasicBlock, (1,), [4], (4,)).block_init_cfg is None
    assert models.MobileNetV2(0.25).pretrained is None
    assert models.SSDVGG.extra_setting[300][:3] == (256, "S", 512)
    names = list(MixFFN(8, 16, act_cfg=dict(type="PReLU"), use_conv=True).state_dict())
    assert "layers.2.weight" in names
    assert "activate.weight" not in names


def test_circular_padding_needs_nothing_of_the_convolution():
    """mmcv's block pads with zeros, whatever the convolution could do."""
    conv_cfg = dict(type="Conv2dAdaptivePadding")
    assert ConvModule(2, 2, 3, padding=1, conv_cfg=conv_cfg, padding_mode="circular").conv


def test_fpn_builds_level_by_level():
    torch.manual_seed(0)
    neck = models.FPN([8, 16], 4, 2, init_cfg=None)
    got = {name: moments(p)[0] for name, p in neck.named_parameters() if p.dim() == 4}
    assert got == pytest.approx({
        "lateral_convs.0.conv.weight": -0.08164378453511745,
        "lateral_convs.1.conv.weight": -0.015403610330395168,
        "fpn_convs.0.conv.weight": -0.029530817293561995,
        "fpn_convs.1.conv.weight": 0.01789002448135256}, rel=1e-6)
