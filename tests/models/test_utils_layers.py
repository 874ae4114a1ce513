"""Layers and functions of ``fastdet.models.utils`` that backbones, necks and heads share."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fastdet.cnn import build_conv_layer
from fastdet.models.utils import (
    AdaptiveAvgPool2d,
    ConvUpsample,
    CSPLayer,
    DyReLU,
    InvertedResidual,
    NormedConv2d,
    NormedLinear,
    SELayer,
    adaptive_avg_pool2d,
    build_linear_layer,
    get_uncertain_point_coords_with_randomness,
    get_uncertainty,
    preprocess_panoptic_gt,
)

# ---------------------------------------------------------------- blocks

def test_inverted_residual_is_its_formula():
    x = torch.randn(2, 6, 7, 9)
    plain = InvertedResidual(6, 6, 6, with_expand_conv=False).eval()
    torch.testing.assert_close(plain(x), x + plain.linear_conv(plain.depthwise_conv(x)))
    module = InvertedResidual(6, 6, 12, kernel_size=5, stride=2,
                              se_cfg={"channels": 12, "ratio": 3}).eval()
    inside = module.se(module.depthwise_conv(module.expand_conv(x)))
    torch.testing.assert_close(module(x), module.linear_conv(inside))
    assert module(x).shape == (2, 6, 4, 5)


def test_inverted_residual_drops_whole_samples():
    module = InvertedResidual(4, 4, 8, drop_path_rate=0.5)
    x = torch.randn(64, 4, 5, 5)
    skipped = (module(x) == x).flatten(1).all(1)
    assert 16 < skipped.sum() < 48
    assert isinstance(InvertedResidual(4, 4, 8).drop_path, nn.Identity)


def test_one_activation_config_stands_for_both():
    module = SELayer(8, ratio=2, act_cfg={"type": "Sigmoid"}).eval()
    x = torch.randn(2, 8, 3, 4)
    hidden = module.conv1.conv(x.mean((2, 3), keepdim=True)).sigmoid()
    torch.testing.assert_close(module(x), x * module.conv2.conv(hidden).sigmoid())


def test_dyrelu_is_a_relu_where_the_coefficients_are_neutral():
    module = DyReLU(8)
    nn.init.zeros_(module.conv2.conv.weight)
    nn.init.zeros_(module.conv2.conv.bias)  # the hard sigmoid gives 1/2: slopes 1 and 0
    x = torch.randn(2, 8, 3, 4)
    torch.testing.assert_close(module(x), x.relu())


def test_csp_layer_is_its_formula():
    module = CSPLayer(6, 8, num_blocks=2, add_identity=False).eval()
    x = torch.randn(1, 6, 4, 5)
    main = module.main_conv(x)
    for block in module.blocks:
        main = block.conv2(block.conv1(main))
    want = module.final_conv(torch.cat([main, module.short_conv(x)], 1))
    torch.testing.assert_close(module(x), want)
    for block in module.blocks:
        block.add_identity = True
    assert not torch.allclose(module(x), want)


@pytest.mark.parametrize(("num_upsample", "times"), [(None, 4), (0, 1), (1, 2)])
def test_conv_upsample_sizes(num_upsample, times):
    module = ConvUpsample(3, 4, num_layers=2, num_upsample=num_upsample, norm_cfg={"type": "BN"})
    assert module(torch.randn(1, 3, 5, 6)).shape == (1, 4, 5 * times, 6 * times)
    assert module.conv[0].with_norm


@pytest.mark.parametrize(("build", "error", "message"), [
    (lambda: InvertedResidual(4, 4, 4, stride=3), ValueError, "must be 1 or 2, got 3"),
    (lambda: InvertedResidual(4, 4, 4, se_cfg=[]), TypeError, "se_cfg must be a config dict"),
    (lambda: InvertedResidual(4, 4, 8, with_expand_conv=False), ValueError,
     "mid_channels must be in_channels"),
    (lambda: SELayer(4, act_cfg=({"type": "ReLU"},)), ValueError, "act_cfg must be a dict or a"),
    (lambda: DyReLU(4, act_cfg=("ReLU", "Sigmoid")), ValueError, "act_cfg must be a dict or a"),
    (lambda: ConvUpsample(4, 4, 1, 2), ValueError, "num_upsample must be at most num_layers=1")])
def test_bad_arguments(build, error, message):
    with pytest.raises(error, match=message):
        build()


# ---------------------------------------------------------------- pooling

@pytest.mark.parametrize("pool", [AdaptiveAvgPool2d((2, 5)),
                                  lambda x: adaptive_avg_pool2d(x, (2, 5))])
def test_pooling_of_an_empty_batch_has_a_gradient(pool):
    x = torch.zeros(0, 3, 8, 9, requires_grad=True)
    out = pool(x)
    assert out.shape == (0, 3, 2, 5)
    out.sum().backward()
    assert x.grad.shape == x.shape


# ---------------------------------------------------------------- normalised predictors

def unit(x, dim, power, eps):
    return x / (x.pow(2).sum(dim, keepdim=True).sqrt().pow(power) + eps)


@pytest.mark.parametrize("power", [1.0, 0.5])
def test_normed_linear(power):
    layer = build_linear_layer({"type": "NormedLinear", "tempearture": 3, "power": power,
                                "eps": 0.1}, 5, 4)
    x = torch.randn(6, 5)
    want = 3 * unit(x, 1, power, 0.1) @ unit(layer.weight, 1, power, 0.1).T + layer.bias
    torch.testing.assert_close(layer(x), want)


@pytest.mark.parametrize("norm_over_kernel", [False, True])
def test_normed_conv(norm_over_kernel):
    layer = build_conv_layer({"type": "NormedConv2d", "norm_over_kernel": norm_over_kernel},
                             4, 5, 3, padding=1, stride=2)
    x = torch.randn(2, 4, 6, 7)
    weight = unit(layer.weight, (1, 2, 3) if norm_over_kernel else 1, 1, 1e-6)
    want = F.conv2d(20 * unit(x, 1, 1, 1e-6), weight, layer.bias, stride=2, padding=1)
    torch.testing.assert_close(layer(x), want)


def test_a_normed_linear_layer_initialises_itself():
    layer = NormedLinear(300, 100)
    assert layer.weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not layer.bias.any()
    assert NormedLinear(3, 4, bias=False).bias is None


@pytest.mark.parametrize("build", [
    NormedConv2d, lambda *args: build_conv_layer({"type": "NormedConv2d"}, *args)])
def test_a_normed_convolution_starts_as_torch_draws_one(build):
    plain, layer = [(torch.manual_seed(3), make(8, 4, 3))[1] for make in (nn.Conv2d, build)]
    torch.testing.assert_close(layer.state_dict(), plain.state_dict(), rtol=0, atol=0)
    assert not hasattr(layer, "init_weights")


# ---------------------------------------------------------------- points

def test_uncertainty_of_the_class():
    logits = torch.randn(3, 4, 5, 6)
    labels = torch.tensor([2, 0, 3])
    want = -torch.stack([logits[i, c] for i, c in enumerate(labels)]).abs()
    assert torch.equal(get_uncertainty(logits, labels)[:, 0], want)
    assert torch.equal(get_uncertainty(logits[:, :1], labels), -logits[:, :1].abs())


@given(st.integers(0, 4), st.integers(1, 12), st.floats(1, 4), st.floats(0, 1))
def test_uncertain_points(rois, num_points, oversample, share):
    logits, labels = torch.randn(rois, 3, 5, 6), torch.zeros(rois, dtype=torch.int64)
    torch.manual_seed(3)
    points = get_uncertain_point_coords_with_randomness(logits, labels, num_points, oversample,
                                                        share)
    assert points.shape == (rois, num_points, 2)
    assert bool(((points >= 0) & (points < 1)).all())
    torch.manual_seed(3)  # the chosen ones are the least sure of what was drawn first
    drawn = torch.rand(rois, int(num_points * oversample), 2)
    chosen = int(share * num_points)
    if rois and chosen:
        at = F.grid_sample(logits[:, :1], 2 * drawn[:, :, None] - 1, align_corners=False)
        order = at[:, 0, :, 0].abs().argsort(dim=1)[:, :chosen]
        assert torch.equal(points[:, :chosen], drawn.gather(1, order[..., None].expand(-1, -1, 2)))


@pytest.mark.parametrize(("ratios", "message"), [
    ((0.5, 0.5), "oversample_ratio must be at least 1, got 0.5"),
    ((2, 1.5), r"importance_sample_ratio must lie in \[0, 1\], got 1.5")])
def test_bad_ratios(ratios, message):
    with pytest.raises(ValueError, match=message):
        get_uncertain_point_coords_with_randomness(torch.zeros(1, 1, 4, 4), torch.zeros(1), 4,
                                                   *ratios)


# ---------------------------------------------------------------- panoptic ground truth

class Masks:
    """What the function needs of mmdet's BitmapMasks."""

    def __init__(self, masks):
        self.masks = masks

    def pad(self, shape, pad_val):
        height, width = self.masks.shape[1:]
        return Masks(F.pad(self.masks, (0, shape[1] - width, 0, shape[0] - height), value=pad_val))

    def to_tensor(self, dtype, device):
        return self.masks.to(dtype=dtype, device=device)


def test_panoptic_ground_truth():
    things = torch.zeros(2, 3, 4, dtype=torch.uint8)
    things[0, 0, 0] = things[1, 2, 3] = 1
    labels, metas = torch.tensor([1, 0]), {"pad_shape": (4, 5, 3)}
    # Classes: two things, then stuff 2, 3 and 4; 5 is out of range and 255 nothing.
    seg = torch.full((1, 4, 5), 255)
    seg[0, 0], seg[0, 1, :2], seg[0, 2, 0], seg[0, 3, 0] = 4, 2, 1, 5
    got_labels, masks = preprocess_panoptic_gt(labels, Masks(things), seg, 2, 3, metas)
    assert got_labels.tolist() == [1, 0, 2, 4]
    assert masks.dtype == torch.int64
    assert torch.equal(masks[:2, :3, :4], things.long())
    assert torch.equal(masks[2:], torch.stack([seg[0] == 2, seg[0] == 4]).long())
    assert masks.sum().item() == 2 + 5 + 2

    only_things = preprocess_panoptic_gt(labels, Masks(things), None, 2, 3, metas)
    assert torch.equal(only_things[0], labels)
    assert torch.equal(only_things[1], masks[:2])
    none = torch.full((1, 4, 5), 255)
    assert preprocess_panoptic_gt(labels, Masks(things), none, 2, 3, metas)[1].shape == (2, 4, 5)
