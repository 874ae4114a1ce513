"""CARAFE's modules: they call the operator, and CARAFEPack predicts its kernels."""

import pytest
import torch
import torch.nn.functional as F

from fastdet.cnn import build_upsample_layer
from fastdet.ops import CARAFE, CARAFENaive, CARAFEPack, carafe, carafe_naive


@pytest.mark.parametrize("module", [CARAFE, CARAFENaive])
def test_modules_and_functions_agree(module):
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    masks = torch.randn(2, 18, 6, 10, dtype=torch.float64, requires_grad=True)
    out = module(kernel_size=3, group_size=2, scale_factor=2)(x, masks)
    assert torch.equal(out, carafe(x, masks, 3, 2, 2))
    assert torch.equal(out, carafe_naive(x, masks, 3, 2, 2))
    taps = F.unfold(x, 3, padding=1).view(2, 2, 2, 9, 3, 1, 5, 1)  # group, channel, tap
    want = (taps * masks.view(2, 2, 1, 9, 3, 2, 5, 2)).sum(3).view(2, 4, 6, 10)
    torch.testing.assert_close(out, want)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(out.square().sum(), (x, masks)))


@pytest.mark.parametrize(("args", "kernel_shape"), [
    ({}, (100, 64, 3, 3)),
    (dict(scale_factor=3, up_kernel=3, up_group=2, encoder_kernel=1, compressed_channels=5),
     (162, 5, 1, 1)),
    (dict(encoder_kernel=5, encoder_dilation=2), (100, 64, 5, 5)),
])
def test_pack_is_its_three_steps(args, kernel_shape):
    pack = CARAFEPack(**(dict(channels=8, scale_factor=2) | args)).double()
    torch.nn.init.normal_(pack.content_encoder.weight)
    assert pack.content_encoder.weight.shape == kernel_shape
    x = torch.randn(2, 8, 4, 5, dtype=torch.float64)
    mask = pack.kernel_normalizer(pack.content_encoder(pack.channel_compressor(x)))
    s, k, g = pack.scale_factor, pack.up_kernel, pack.up_group
    assert mask.shape == (2, g * k * k, 4 * s, 5 * s)
    torch.testing.assert_close(mask.view(2, g, k * k, 4 * s, 5 * s).sum(2),
                               torch.ones(2, g, 4 * s, 5 * s, dtype=torch.float64))
    out = pack(x)
    assert out.shape == (2, 8, 4 * s, 5 * s)
    torch.testing.assert_close(out, pack.feature_reassemble(x, mask))


def test_pack_trains():
    pack = CARAFEPack(6, 2, compressed_channels=4)
    x = torch.randn(1, 6, 3, 4, requires_grad=True)
    pack(x).square().sum().backward()
    assert all(t.grad.abs().sum() > 0 for t in (x, *pack.parameters()))
    assert list(pack.state_dict()) == [f"{part}.{p}" for part in (
        "channel_compressor", "content_encoder") for p in ("weight", "bias")]


def test_init_weights():
    pack = CARAFEPack(256, 2)
    for p in pack.parameters():
        torch.nn.init.ones_(p)
    pack.init_weights()
    bound = (6 / (256 + 64)) ** 0.5
    weight = pack.channel_compressor.weight
    assert 0.95 * bound < weight.abs().max() <= bound
    assert pack.content_encoder.weight.std().item() == pytest.approx(0.001, rel=0.03)
    assert pack.channel_compressor.bias.abs().max() == pack.content_encoder.bias.abs().max() == 0


def test_pack_is_an_upsample_layer():
    layer = build_upsample_layer(dict(type="carafe", channels=4, scale_factor=2, up_kernel=3))
    assert type(layer) is CARAFEPack
    assert layer.up_kernel == 3


def test_arguments_that_are_not_ints():
    with pytest.raises(TypeError, match=r"scale_factor must be an int, got 2\.0"):
        CARAFE(5, 1, 2.0)


def test_masks_of_a_wrong_size():
    with pytest.raises(ValueError, match=r"masks must be \[1, 9, 6, 6\].*got \[1, 9, 3, 3\]"):
        CARAFE(3, 1, 2)(torch.zeros(1, 4, 3, 3), torch.zeros(1, 9, 3, 3))
