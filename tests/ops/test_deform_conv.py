"""Deformable convolution layers: arguments, state, old checkpoints and what they compute."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastdet.cnn import build_conv_layer
from fastdet.ops import (
    DeformConv2d,
    DeformConv2dPack,
    ModulatedDeformConv2d,
    ModulatedDeformConv2dPack,
    deform_conv2d,
    modulated_deform_conv2d,
)
from fastdet.runner import load_state_dict

PACKS = {"DCN": DeformConv2dPack, "DCNv2": ModulatedDeformConv2dPack}


def randomised(layer):
    for p in layer.parameters():
        nn.init.normal_(p, std=0.3)
    return layer.double()


@pytest.mark.parametrize("name", PACKS)
def test_packs_are_registered(name):
    layer = build_conv_layer(dict(type=name, deform_groups=2), 8, 6, 3, stride=2, padding=1,
                             bias=False)
    assert type(layer) is PACKS[name]
    assert (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (2, 2), (1, 1))
    assert (layer.transposed, layer.output_padding, layer.deform_groups) == (False, (0,), 2)
    assert list(layer.state_dict()) == ["weight", "conv_offset.weight", "conv_offset.bias"]
    assert layer.conv_offset.out_channels == 2 * 9 * (2 if name == "DCN" else 3)


@pytest.mark.parametrize("name", PACKS)
def test_a_fresh_pack_is_a_convolution(name):
    layer = PACKS[name](4, 6, 3, padding=1, dilation=1, groups=2).double()
    x = torch.randn(2, 4, 5, 7, dtype=torch.float64)
    want = F.conv2d(x, layer.weight, padding=1, groups=2)
    torch.testing.assert_close(layer(x), want if name == "DCN" else want / 2)


def test_v1_pack_is_its_two_convolutions():
    layer = randomised(DeformConv2dPack(4, 6, 3, stride=2, padding=2, dilation=2, deform_groups=2))
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    want = deform_conv2d(x, layer.conv_offset(x), layer.weight, 2, 2, 2, 1, 2)
    torch.testing.assert_close(layer(x), want)


def test_v2_pack_splits_offsets_and_mask():
    layer = randomised(ModulatedDeformConv2dPack(4, 6, 3, padding=1, deform_groups=2))
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    o1, o2, mask = layer.conv_offset(x).chunk(3, 1)
    want = modulated_deform_conv2d(x, torch.cat((o1, o2), 1), mask.sigmoid(), layer.weight,
                                   layer.bias, padding=1, deform_groups=2)
    torch.testing.assert_close(layer(x), want)


@pytest.mark.parametrize(("size", "stride"), [((1, 1), 1), ((2, 7), 1), ((5, 2), 1), ((2, 7), 2)])
def test_v1_of_an_input_smaller_than_the_kernel(size, stride):
    """mmcv pads input and offsets to the kernel's size and crops the result."""
    layer = randomised(DeformConv2d(4, 6, 3, stride=stride, padding=1))
    x = torch.randn(2, 4, *size, dtype=torch.float64)
    oh, ow = ((n - 1) // stride + 1 for n in size)
    offset = torch.randn(2, 18, oh, ow, dtype=torch.float64)
    below, right = (max(3 - n, 0) for n in size)
    padded = deform_conv2d(F.pad(x, (0, right, 0, below)), F.pad(offset, (0, right, 0, below)),
                           layer.weight, stride, 1)
    torch.testing.assert_close(layer(x, offset), padded[:, :, :oh, :ow])


def test_initialisation():
    torch.manual_seed(0)
    v1, v2 = DeformConv2dPack(64, 64, 3), ModulatedDeformConv2dPack(64, 64, 3)
    bound = math.sqrt(6 / (64 * 9))
    assert 0.99 * bound < float(v1.weight.detach().abs().max()) <= bound
    bound = 1 / math.sqrt(64 * 9)
    assert 0.99 * bound < float(v2.weight.detach().abs().max()) <= bound
    for p in (v2.bias, *v1.conv_offset.parameters(), *v2.conv_offset.parameters()):
        assert not p.any()
    randomised(v2).init_weights()
    assert not v2.conv_offset.weight.any()
    assert not v2.bias.any()


@pytest.mark.parametrize("name", PACKS)
def test_checkpoints_before_version_2(name):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv2 = PACKS[name](4, 4, 3, bias=False)

    new = randomised(Block())
    state = new.state_dict()
    old = {k.replace(".conv_offset.", "_offset."): v for k, v in state.items()}
    assert "conv2_offset.weight" in old
    block = Block().double()
    load_state_dict(block, old, strict=True)
    for key, value in block.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert state._metadata["conv2"]["version"] == 2
    block.load_state_dict(state, strict=True)


@pytest.mark.parametrize("layer", [DeformConv2d, DeformConv2dPack, ModulatedDeformConv2d,
                                   ModulatedDeformConv2dPack])
def test_deform_groups_by_its_old_name(layer):
    with pytest.warns(DeprecationWarning, match="deformable_groups of .* is now called"):
        assert layer(4, 4, 3, deformable_groups=2).deform_groups == 2
    with pytest.raises(ValueError, match="got both deform_groups and its old name"):
        layer(4, 4, 3, deform_groups=2, deformable_groups=2)


@pytest.mark.parametrize(("make", "text"), [
    (lambda: DeformConv2d(4, 4, 3, bias=True), "DeformConv2d has no bias, bias must be False"),
    (lambda: DeformConv2d(4, 6, 3, groups=4), "out_channels must be a multiple of groups"),
    (lambda: ModulatedDeformConv2d(5, 6, 3, groups=2), "in_channels must be a multiple of groups"),
    (lambda: DeformConv2dPack(4, 4, 3, deform_groups=3), "in_channels must be a multiple of def"),
    (lambda: deform_conv2d(*[torch.zeros(1, 1, 1, 1)] * 3, bias=True), "bias must be False"),
    (lambda: DeformConv2d(4, 4, 3)(torch.zeros(1, 4, 5, 5), torch.zeros(1, 18, 4, 3)),
     r"offset must be \[1, 18, 3, 3\], got \[1, 18, 4, 3\]"),
])
def test_bad_arguments(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize("name", PACKS)
def test_autocast(name):
    layer = PACKS[name](4, 6, 3, padding=1)
    x = torch.randn(1, 4, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    torch.testing.assert_close(out.float(), layer(x), rtol=0.05, atol=0.05)
