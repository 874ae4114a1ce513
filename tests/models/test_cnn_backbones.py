"""CSPDarknet, Darknet, EfficientNet, HourglassNet, MobileNetV2, SSDVGG and SSDNeck."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from fastdet.models import (
    SSDVGG,
    CSPDarknet,
    Darknet,
    EfficientNet,
    HourglassNet,
    MobileNetV2,
    SSDNeck,
)
from fastdet.models.backbones.csp_darknet import Focus, SPPBottleneck
from fastdet.models.backbones.darknet import ResBlock
from fastdet.models.backbones.efficientnet import EdgeResidual, model_scaling
from fastdet.models.backbones.hourglass import HourglassModule
from fastdet.models.backbones.ssd_vgg import L2Norm

CSP = {"widen_factor": 0.125, "deepen_factor": 0.33}
NARROW = [
    (CSPDarknet, CSP), (Darknet, {}), (EfficientNet, {"arch": "es", "out_indices": (2,)}),
    (MobileNetV2, {"widen_factor": 0.25})]
IDS = [cls.__name__ for cls, _ in NARROW]


def gradients(module, x):
    x = x.detach().clone().requires_grad_()
    outs = module(x)
    outs = outs if isinstance(outs, (tuple, list)) else [outs]
    sum((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() for out in outs).backward()
    return [x.grad, *(p.grad for p in module.parameters() if p.grad is not None)], outs


def frozen_tops(module):
    """First name of every parameter that has no gradient, and of every layer in eval mode."""
    def top(name):
        parts = name.split(".")
        return ".".join(parts[:2]) if parts[0] == "layers" else parts[0]

    still = {top(k) for k, p in module.named_parameters() if not p.requires_grad}
    asleep = {top(k) for k, m in module.named_modules() if not m.training}
    return still, asleep


@pytest.mark.parametrize(("cls", "kwargs", "frozen", "still", "asleep"), [
    (CSPDarknet, CSP, 0, {"stem"}, {"stem"}),
    (CSPDarknet, CSP, 1, {"stem", "stage1"}, {"stem", "stage1"}),
    (Darknet, {"norm_eval": False}, 0, set(), set()),
    (Darknet, {"norm_eval": False}, 2, {"conv1", "conv_res_block1"}, {"conv1", "conv_res_block1"}),
    (EfficientNet, {"arch": "es", "out_indices": (2,)}, 0, set(), set()),
    (EfficientNet, {"arch": "es", "out_indices": (2,)}, 2, {"layers.0", "layers.1"},
     {"layers.0", "layers.1"}),
    # The stem's norm goes on training its statistics.
    (MobileNetV2, {"widen_factor": 0.25}, 0, {"conv1"}, set()),
    (MobileNetV2, {"widen_factor": 0.25}, 2, {"conv1", "layer1", "layer2"}, {"layer1", "layer2"})])
def test_frozen_stages(cls, kwargs, frozen, still, asleep):
    module = cls(frozen_stages=frozen, **kwargs)
    assert module.train() is module
    assert frozen_tops(module) == (still, asleep)


@pytest.mark.parametrize(("cls", "kwargs"), NARROW, ids=IDS)
def test_norm_eval(cls, kwargs):
    module = cls(norm_eval=True, **kwargs).train()
    modes = {isinstance(m, _BatchNorm): m.training for m in module.modules()}
    assert modes == {True: False, False: True}
    module = cls(norm_eval=False, **kwargs).train()
    assert all(m.training for m in module.modules())
    assert not any(m.training for m in module.eval().modules())


@pytest.mark.parametrize(("cls", "kwargs"), [
    (EfficientNet, {"arch": "b0", "out_indices": (1, 2)}),
    (EfficientNet, {"arch": "es", "out_indices": (2,)}),
    (MobileNetV2, {"widen_factor": 0.25, "out_indices": (2,)})])
def test_with_cp_changes_nothing(cls, kwargs):
    plain = cls(**kwargs).train()
    saving = copy.deepcopy(plain)
    for m in saving.modules():
        if hasattr(m, "with_cp"):
            m.with_cp = True
    x = torch.randn(2, 3, 32, 32)
    # The running statistics are updated again by the recomputation, so they are not compared.
    (want, outs), (got, again) = gradients(plain, x), gradients(saving, x)
    for a, b in zip([*want, *outs], [*got, *again], strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("cls", "kwargs"), NARROW[1:], ids=IDS[1:])
def test_default_initialisation(cls, kwargs):
    module = cls(**kwargs)
    with torch.no_grad():
        for p in module.parameters():
            p.fill_(7)
    module.init_weights()
    convs = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
    biggest = max(convs, key=lambda m: m.weight.numel())
    fan_out = biggest.weight[:, 0].numel()
    # Blocks initialise their own convolutions after the parent, for the slope of a LeakyReLU.
    gain = 2 / 1.01 if cls is Darknet else 2
    assert biggest.weight.std().item() == pytest.approx((gain / fan_out) ** 0.5, rel=0.05)
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm)]
    assert all(bool((m.weight == 1).all()) and not m.bias.any() for m in norms)


def test_pretrained(tmp_path):
    for cls, kwargs in ((MobileNetV2, {"widen_factor": 0.25}), (SSDVGG, {"depth": 11})):
        source = cls(**kwargs)
        torch.save(source.state_dict(), tmp_path / "w.pth")
        with pytest.warns(DeprecationWarning, match="pretrained is deprecated"):
            module = cls(pretrained=str(tmp_path / "w.pth"), **kwargs)
        module.init_weights()
        assert all(torch.equal(a, b) for a, b in zip(source.parameters(), module.parameters()))
        with pytest.raises(ValueError, match="cannot be given together"):
            cls(pretrained="a", init_cfg={"type": "Kaiming"}, **kwargs)


# ---------------------------------------------------------------- CSPDarknet

def test_focus_gathers_the_four_pixels_of_a_cell():
    module = Focus(3, 5).eval()
    module.conv = nn.Identity()
    x = torch.randn(2, 3, 4, 6)
    parts = [x[..., dy::2, dx::2] for dx in (0, 1) for dy in (0, 1)]
    for memory_format in (torch.contiguous_format, torch.channels_last):
        got = module(x.contiguous(memory_format=memory_format))
        assert torch.equal(got, torch.cat(parts, 1))


@pytest.mark.parametrize("kernel_sizes", [(5, 9, 13), (3, 5), (9, 5), (1, 3), (5, 5)])
def test_pyramid_pooling_is_the_same_without_gradients(kernel_sizes):
    module = SPPBottleneck(8, 8, kernel_sizes).eval()
    x = torch.randn(2, 8, 7, 15)
    want = module(x)
    hidden = module.conv1(x)
    pooled = [F.max_pool2d(hidden, k, 1, k // 2) for k in kernel_sizes]
    torch.testing.assert_close(module.conv2(torch.cat([hidden, *pooled], 1)), want)
    with torch.no_grad():
        assert torch.equal(torch.cat(module._nested_maxima(hidden)), torch.cat(pooled))
        torch.testing.assert_close(module(x), want)


def test_csp_darknet_of_ones_own_stages():
    module = CSPDarknet(arch_ovewrite=[(16, 24, 1, True, True), (24, 8, 2, False, False)],
                        out_indices=(0, 1, 2)).eval()
    assert [out.shape[1] for out in module(torch.randn(1, 3, 32, 32))] == [16, 24, 8]
    assert isinstance(module.stage1[1], SPPBottleneck)
    assert len(module.stage2[1].blocks) == 2


def test_csp_darknet_initialises_as_torch_does():
    module = CSPDarknet(**CSP)
    module.init_weights()
    weight = module.stage4[0].conv.weight
    bound = weight[0].numel() ** -0.5
    assert 0.99 * bound < weight.abs().max().item() <= bound
    assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)


# ---------------------------------------------------------------- EfficientNet

def test_model_scaling():
    layers = [[(3, 32, 0, 2, 0, -1)],
              [(3, 16, 4, 2, 6, 0), (3, 16, 4, 1, 6, 0), (5, 24, 4, 1, 6, 0)],
              [(1, 64, 0, 1, 0, -1)]]
    assert model_scaling(layers, (1.0, 1.0, 224)) == layers
    assert model_scaling(layers, (2.0, 1.5, 224)) == [
        [(3, 64, 0, 2, 0, -1)],
        [(3, 32, 4, 2, 6, 0), *[(3, 32, 4, 1, 6, 0)] * 2, *[(5, 48, 4, 1, 6, 0)] * 2],
        [(1, 128, 0, 1, 0, -1)]]
    assert model_scaling(layers, (1.0, 0.5, 224))[1] == [(3, 16, 4, 2, 6, 0), (5, 24, 4, 1, 6, 0)]


@pytest.mark.parametrize(("arch", "blocks", "channels"), [
    ("b0", [1, 2, 2, 6, 5], [32, 16, 24, 40, 112, 320, 1280]),
    ("b4", [2, 4, 4, 12, 10], [48, 24, 32, 56, 160, 448, 1792]),
    ("b7", [4, 7, 7, 20, 17], [64, 32, 48, 80, 224, 640, 2560]),
    ("el", [2, 3, 6, 13, 3], [40, 32, 40, 56, 176, 232, 1536])])
def test_efficientnet_architectures(arch, blocks, channels):
    with torch.device("meta"):
        module = EfficientNet(arch)
    assert [len(layer) for layer in module.layers[1:-1]] == blocks
    assert [s[-1][1] for s in module.layer_setting] == channels


def test_first_layer_of_edge_tpu_has_no_residual():
    module = EfficientNet("el", out_indices=(2,))
    first, second = module.layers[1]
    assert (first.conv1.out_channels, second.conv1.out_channels) == (3 * 40, 4 * 32)
    assert not second.with_residual
    assert module.layers[2][1].with_residual


def test_efficientnet_builds_no_layer_in_vain():
    assert len(EfficientNet(out_indices=(0,)).layers) == 1
    assert len(EfficientNet(out_indices=(3, 1)).layers) == 4


def test_drop_path_grows_over_the_blocks():
    module = EfficientNet("es", drop_path_rate=0.3, out_indices=(3,))
    rates = [getattr(block.drop_path, "drop_prob", 0.0) for layer in module.layers[1:]
             for block in layer]
    assert rates == pytest.approx([0.3 * i / 17 for i in range(7)])


def test_edge_residual_with_squeeze():
    module = EdgeResidual(4, 4, 8, se_cfg={"channels": 8, "ratio": 2}).eval()
    x = torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(module(x), x + module.conv2(module.se(module.conv1(x))))


# ---------------------------------------------------------------- Hourglass

def small_hourglass(**kwargs):
    return HourglassNet(**{"downsample_times": 2, "stage_channels": (8, 8, 12),
                           "stage_blocks": (1, 1, 2), "feat_channel": 8, **kwargs})


def test_hourglass_of_odd_maps_and_by_scale():
    assert small_hourglass()(torch.randn(1, 3, 52, 36))[1].shape == (1, 8, 13, 9)
    module = HourglassModule(1, (4, 4), (1, 1), upsample_cfg={"scale_factor": 2}).eval()
    x = torch.randn(1, 4, 6, 8)
    low = module.low3(module.low2(module.low1(x)))
    torch.testing.assert_close(module(x), module.up1(x) + F.interpolate(low, scale_factor=2))


def test_hourglass_initialises_as_torch_does(tmp_path):
    module = small_hourglass()
    module.init_weights()
    weight = module.hourglass_modules[0].low2.low2[0].conv1.weight
    assert 0.99 * weight[0].numel() ** -0.5 < weight.abs().max().item() <= weight[0].numel() ** -0.5
    torch.save(module.state_dict(), tmp_path / "w.pth")
    with pytest.warns(DeprecationWarning, match="pretrained is deprecated"):
        other = small_hourglass(pretrained=str(tmp_path / "w.pth"))
    other.init_weights()
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters()))


# ---------------------------------------------------------------- SSD

def test_ssd_vgg_initialisation_and_outputs():
    module = SSDVGG(11, out_feature_indices=(3,))
    module.init_weights()
    conv = module.features[-2]
    assert conv.weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.05)
    assert not conv.bias.any()
    assert module(torch.randn(1, 3, 32, 32)).shape == (1, 128, 16, 16)
    for name in ("input_size", "l2_norm_scale"):
        with pytest.warns(DeprecationWarning, match=f"{name} of SSDVGG is deprecated"):
            SSDVGG(11, **{name: 300})
    with pytest.raises(ValueError, match="init_weights of SSDVGG takes no pretrained"):
        module.init_weights("vgg.pth")


def test_l2_norm():
    module = L2Norm(3, scale=5.0)
    x = torch.randn(2, 3, 4, 5)
    torch.testing.assert_close(module(x).norm(dim=1), torch.full((2, 4, 5), 5.0))
    half = (1000 * x).half()  # the sum of squares leaves the range of half
    torch.testing.assert_close(module(half), module(half.float()).half())
    assert not module(torch.zeros(1, 3, 2, 2)).any()


SSD = {"in_channels": (4, 6), "out_channels": (4, 6, 8), "level_strides": (2,),
       "level_paddings": (1,)}


@pytest.mark.parametrize("init_cfg", [
    None, {"type": "Normal", "layer": "Conv2d"}, [{"type": "Normal", "layer": "Conv2d"}]])
def test_ssd_neck_initialises_its_norm(init_cfg):
    module = SSDNeck(l2_norm_scale=12, init_cfg=init_cfg, **SSD)
    with torch.no_grad():
        module.l2_norm.weight.zero_()
    module.init_weights()
    assert bool((module.l2_norm.weight == 12).all())
    assert not hasattr(SSDNeck(l2_norm_scale=None, **SSD), "l2_norm")


# ---------------------------------------------------------------- errors

@pytest.mark.parametrize(("build", "error", "message"), [
    (lambda: CSPDarknet("P7"), KeyError, "CSPDarknet has no arch 'P7'; known are P5, P6"),
    (lambda: CSPDarknet(out_indices=(5,)), ValueError, "out_indices of this CSPDarknet must be"),
    (lambda: CSPDarknet(frozen_stages=5), ValueError, "frozen_stages of this CSPDarknet must be"),
    (lambda: Focus(3, 4)(torch.zeros(1, 3, 5, 4)), ValueError, "even height and width, got 5 x 4"),
    (lambda: SPPBottleneck(4, 4, (4,)), ValueError, "must be odd, got"),
    (lambda: Darknet(19), KeyError, "Darknet has no depth 19; known are 53"),
    (lambda: Darknet(out_indices=(6,)), ValueError, "out_indices of Darknet must be 0 to 5"),
    (lambda: Darknet(frozen_stages=7), ValueError, "frozen_stages of Darknet must be at most 6"),
    (lambda: ResBlock(3), ValueError, "in_channels of a ResBlock must be even, got 3"),
    (lambda: EfficientNet("b9"), KeyError, "EfficientNet has no arch 'b9'"),
    (lambda: EfficientNet(out_indices=(7,)), ValueError, "out_indices of EfficientNet must be"),
    (lambda: EfficientNet(out_indices=()), ValueError, "out_indices of EfficientNet must be"),
    (lambda: EfficientNet(frozen_stages=8), ValueError, "frozen_stages of EfficientNet must be"),
    (lambda: EdgeResidual(4, 4, 4, stride=3), ValueError, "stride of an edge residual block"),
    (lambda: EdgeResidual(4, 4, 4, se_cfg=2), TypeError, "se_cfg must be a config dict or None"),
    (lambda: HourglassNet(init_cfg={}), ValueError, "init_cfg of HourglassNet must be None"),
    (lambda: HourglassNet(num_stacks=0), ValueError, "num_stacks must be at least 1, got 0"),
    (lambda: HourglassNet(downsample_times=6), ValueError, "more than downsample_times=6"),
    (lambda: HourglassNet(stage_blocks=(2, 2)), ValueError, "the same number of entries"),
    (lambda: MobileNetV2(out_indices=(8,)), ValueError, "out_indices of MobileNetV2 must be"),
    (lambda: MobileNetV2(frozen_stages=8), ValueError, "frozen_stages of MobileNetV2 must be"),
    (lambda: SSDVGG(12), KeyError, "depth of VGG must be one of"),
    (lambda: SSDNeck(**{**SSD, "out_channels": (4, 7, 8)}), ValueError, "out_channels must be in_"),
    (lambda: SSDNeck(**{**SSD, "out_channels": (4, 6)}), ValueError, "out_channels must be in_"),
    (lambda: SSDNeck(**{**SSD, "level_strides": (2, 2)}), ValueError, "level_strides must have"),
    (lambda: SSDNeck(**{**SSD, "level_paddings": ()}), ValueError, "level_paddings must have")])
def test_bad_arguments(build, error, message):
    with pytest.raises(error, match=message):
        build()
