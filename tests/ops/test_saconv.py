"""Switchable atrous convolution."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastdet.cnn import ConvAWS2d, build_conv_layer
from fastdet.ops import SAConv2d, deform_conv2d


def randomised(layer):
    for t in layer.state_dict().values():
        nn.init.normal_(t, std=0.5)
    return layer.double()


def test_state_and_start():
    layer = build_conv_layer(dict(type="SAC", use_deform=True), 4, 6, 3, stride=2, padding=1,
                             bias=False)
    assert type(layer) is SAConv2d
    assert list(layer.state_dict()) == [
        "weight", "weight_diff", "weight_gamma", "weight_beta",
        *(f"{part}.{leaf}" for part in ("switch", "pre_context", "post_context", "offset_s",
                                        "offset_l") for leaf in ("weight", "bias"))]
    assert not hasattr(build_conv_layer(dict(type="SAC"), 4, 6, 3), "offset_s")
    plain = ConvAWS2d(4, 6, 3, 2, 1, bias=False)
    plain.load_state_dict(layer.state_dict(), strict=False)
    x = torch.randn(2, 4, 7, 9)
    torch.testing.assert_close(layer(x), plain(x))


@pytest.mark.parametrize("use_deform", [False, True])
@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 2, 2)])
def test_the_definition(use_deform, stride, dilation, groups):
    layer = randomised(SAConv2d(4, 6, 3, stride, dilation, dilation, groups,
                                use_deform=use_deform))
    x = torch.randn(2, 4, 7, 8, dtype=torch.float64)

    y = x + F.conv2d(x.mean((2, 3), keepdim=True), layer.pre_context.weight, layer.pre_context.bias)
    windows = F.pad(y, (2, 2, 2, 2), mode="reflect").unfold(2, 5, 1).unfold(3, 5, 1)
    around = windows.mean((-2, -1))
    switch = F.conv2d(around, layer.switch.weight, layer.switch.bias, stride)
    rows = layer.weight.flatten(1)
    rows = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, keepdim=True) + 1e-5).sqrt()
    weight = (rows * layer.weight_gamma.flatten(1) + layer.weight_beta.flatten(1))
    weight = weight.view_as(layer.weight)
    parts = []
    for name, w, factor in (("s", weight, 1), ("l", weight + layer.weight_diff, 3)):
        d = factor * dilation
        if use_deform:
            offset = getattr(layer, f"offset_{name}")(around)
            parts.append(deform_conv2d(y, offset, w, stride, d, d, groups))
        else:
            parts.append(F.conv2d(y, w, None, stride, d, d, groups))
    out = switch * parts[0] + (1 - switch) * parts[1]
    out = out + F.conv2d(out.mean((2, 3), keepdim=True), layer.post_context.weight,
                         layer.post_context.bias)
    torch.testing.assert_close(layer(x), out)


def test_every_parameter_but_the_bias_learns():
    layer = randomised(SAConv2d(4, 6, 3, padding=1, use_deform=True))
    layer(torch.randn(1, 4, 6, 6, dtype=torch.float64)).square().sum().backward()
    idle = [n for n, p in layer.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == ["bias"]


def test_a_plain_checkpoint_starts_as_its_convolution():
    plain = nn.Conv2d(4, 6, 3, padding=1, bias=False)
    layer = SAConv2d(4, 6, 3, padding=1, bias=False)
    layer.load_state_dict(plain.state_dict(), strict=False)
    x = torch.randn(1, 4, 6, 6)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-4, atol=1e-4)


def test_bad_kernel():
    with pytest.raises(ValueError, match="takes a kernel of 3 x 3, got kernel_size=5"):
        SAConv2d(4, 6, 5, use_deform=True)
    assert SAConv2d(4, 6, 5, padding=2)(torch.zeros(1, 4, 5, 5)).shape == (1, 6, 5, 5)
