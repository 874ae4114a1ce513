"""Every backbone and neck says in one sentence what is wrong with its input."""

import pytest
import torch

from fastdet import models
from fastdet.cnn import VGG
from fastdet.models import MODELS, SwinTransformer
from fastdet.models.backbones.pvt import SpatialReductionAttention

STAGE = dict(num_modules=1, block="BASIC")
HR = {f"stage{i}": dict(STAGE, num_branches=i, num_blocks=(1,) * i, num_channels=(4,) * i)
      for i in (1, 2, 3, 4)}
BACKBONES = {
    "CSPDarknet": dict(deepen_factor=0.1, widen_factor=0.125), "Darknet": {},
    "DetectoRS_ResNeXt": dict(depth=50, groups=4), "DetectoRS_ResNet": dict(depth=50),
    "EfficientNet": {}, "HRNet": dict(extra=HR), "HourglassNet": dict(num_stacks=1),
    "MobileNetV2": {}, "PyramidVisionTransformer": {}, "PyramidVisionTransformerV2": {},
    "RegNet": dict(arch="regnetx_400mf"), "Res2Net": dict(depth=50), "ResNeSt": dict(depth=50),
    "ResNeXt": dict(depth=50), "ResNet": dict(depth=18), "ResNetV1d": dict(depth=50),
    "SSDVGG": dict(depth=16), "SwinTransformer": {},
    "TridentResNet": dict(depth=50, num_branch=3, test_branch_idx=1, num_stages=3,
                          trident_dilations=(1, 2, 3), strides=(1, 2, 2), dilations=(1, 1, 1),
                          out_indices=(2,)),
}
IN = dict(in_channels=[4, 6, 8, 10], out_channels=4)
NECKS = {
    "BFP": dict(in_channels=4, num_levels=4), "CTResNetNeck": dict(
        in_channel=10, num_deconv_filters=(4,), num_deconv_kernels=(4,), use_dcn=False),
    "ChannelMapper": IN, "DilatedEncoder": dict(
        in_channels=10, out_channels=4, block_mid_channels=2, num_residual_blocks=1,
        block_dilations=[2]),
    "DyHead": dict(in_channels=16, out_channels=16), "FPG": dict(
        IN, num_outs=5, stack_times=1, paths=["bu"]),
    "FPN": dict(IN, num_outs=4), "FPN_CARAFE": dict(
        IN, num_outs=4, upsample_cfg=dict(type="nearest")),
    "HRFPN": dict(IN, num_outs=4), "NASFCOS_FPN": dict(IN, num_outs=5, start_level=0),
    "NASFPN": dict(IN, num_outs=5, stack_times=1), "PAFPN": dict(IN, num_outs=4),
    "RFP": dict(IN, num_outs=4, rfp_steps=1, aspp_out_channels=1, rfp_backbone=dict(
        type="DetectoRS_ResNet", depth=50)),
    "SSDNeck": dict(in_channels=(4, 6), out_channels=(4, 6, 8), level_strides=(2,),
                    level_paddings=(1,)),
    "YOLOV3Neck": dict(num_scales=4, in_channels=[10, 8, 6, 4], out_channels=[4, 3, 2, 2]),
    "YOLOXPAFPN": dict(IN, num_csp_blocks=1),
}
READ_THE_LAST = ("CTResNetNeck", "DilatedEncoder")


def build(name, table):
    with torch.device("meta"):  # messages need no weights
        return MODELS.build(dict(type=name, **table[name]))


def test_every_component_is_listed():
    assert set(BACKBONES) == set(models.backbones.__all__)
    assert set(NECKS) == set(models.necks.__all__)


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_take_images(name):
    backbone = build(name, BACKBONES)
    for shape in ((3, 64, 64), (1, 4, 64, 64), (1, 1, 3, 64, 64), (1, 64, 64, 3)):
        with pytest.raises(ValueError) as e:  # noqa: PT011  (the sentence is compared whole)
            backbone(torch.empty(shape, device="meta"))
        assert str(e.value) == (f"{name} takes images (N, 3, H, W), got a tensor of shape {shape}")
    for x in (None, [torch.empty(1, 3, 64, 64)]):
        with pytest.raises(TypeError, match=rf"{name} takes images .*, got a (list|NoneType)"):
            backbone(x)


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "HourglassNet"
                                  and name != "HRNet"])
def test_backbones_take_lists_of_indices(name):
    key = "out_feature_indices" if name == "SSDVGG" else "out_indices"
    for bad, error in ((3, TypeError), ((99,), ValueError), ((-1,), ValueError), ("0", TypeError)):
        if name == "SSDVGG" and bad == (99,):  # its default is too high for VGG-11
            continue
        with pytest.raises(error, match=rf"{key}.* must be "):
            build(name, {name: dict(BACKBONES[name], **{key: bad})})


@pytest.mark.parametrize("name", NECKS)
def test_necks_take_one_map_per_level(name):
    neck = build(name, NECKS)
    channels = (3, 4, 6, 8, 10) if name == "RFP" else (4, 6) if name == "SSDNeck" else \
        (4,) * 4 if name == "BFP" else (16,) * 4 if name == "DyHead" else (4, 6, 8, 10)
    maps = [torch.empty(2, c, 64 // 2**i, 64 // 2**i, device="meta")
            for i, c in enumerate(channels)]
    with pytest.raises(TypeError, match=rf"{name} takes a list.*, got "):
        neck(maps[0])
    with pytest.raises(ValueError, match=rf"{name} (was built for|takes at least one)"):
        neck([])
    if name not in (*READ_THE_LAST, "DyHead"):
        with pytest.raises(ValueError, match=rf"{name} was built for {len(maps)} .* got "):
            neck(maps[:-1])
    wrong = maps[-1][:, :1]
    for last in (maps[-1][0], wrong):
        with pytest.raises(ValueError, match=rf"{name}.* level \d.* got "):
            neck([*maps[:-1], last])


def test_fpn_does_not_take_the_batch_for_levels():
    with pytest.raises(TypeError, match=r"FPN takes a list or tuple of maps, got a tensor of "
                                        r"shape \(4, 4, 8, 8\)"):
        build("FPN", NECKS)(torch.empty(4, 4, 8, 8, device="meta"))


def test_a_level_that_is_not_read_may_have_any_channels():
    neck = models.FPN([4, 6, 8], 4, 2, start_level=1)
    sizes = (8, 4, 2)
    outs = neck([torch.randn(1, c, s, s) for c, s in zip((5, 6, 8), sizes)])
    assert [o.shape[-1] for o in outs] == [4, 2]


@pytest.mark.parametrize("heads", [(1, 2, 2), (1,)])
def test_swin_has_one_number_of_heads_per_stage(heads):
    with pytest.raises(ValueError, match=r"num_heads must have one entry for each of the 2 stages "
                                         rf".*got \({heads[0]}"):
        SwinTransformer(embed_dims=8, depths=(1, 1), num_heads=heads, strides=(4, 2),
                        out_indices=(0, 1))


def test_pvt_needs_a_map_of_one_cell():
    with pytest.raises(ValueError, match="a map of 4 x 4 is smaller than sr_ratio=8"):
        SpatialReductionAttention(8, 1, sr_ratio=8)(torch.randn(1, 16, 8), (4, 4))
    with pytest.raises(ValueError, match="a map of 4 x 4 is smaller than sr_ratio=8"):
        build("PyramidVisionTransformer", BACKBONES)(torch.empty(1, 3, 16, 16, device="meta"))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: models.ResNet(77), "ResNet has no depth 77; known are 18, 34, 50, 101, 152"),
    (lambda: models.ResNet("x"), "ResNet has no depth 'x'; known are 18, 34, 50, 101, 152"),
    (lambda: models.Darknet(19), "Darknet has no depth 19; known are 53"),
    (lambda: models.RegNet("x"), "RegNet has no architecture 'x'; known are regnetx_400mf"),
    (lambda: models.EfficientNet("b9"), "EfficientNet has no arch 'b9'; known are b0"),
    (lambda: models.CSPDarknet("P7"), "CSPDarknet has no arch 'P7'; known are P5, P6"),
    (lambda: VGG(12), "depth of VGG must be one of [11, 13, 16, 19], got 12"),
    (lambda: models.HRNet({**HR, "stage2": dict(HR["stage2"], block="X")}),
     "stage2 of HRNet has no block 'X'; known are BASIC, BOTTLENECK")])
def test_an_unknown_network_is_named_without_quotes(make, message):
    with pytest.raises(KeyError) as e:
        make()
    assert str(e.value).startswith(message)
