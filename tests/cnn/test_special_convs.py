"""Adaptive padding, weight standardisation, Scale and VGG."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastdet.cnn import VGG, Conv2dAdaptivePadding, ConvAWS2d, ConvWS2d, Scale, conv_ws_2d


@pytest.mark.parametrize("size", [(7, 8), (5, 12), (1, 3)])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [
    (3, 1, 1), (3, 2, 1), (5, 2, 1), ((3, 5), (2, 3), (2, 1)), (1, 3, 1), (2, 2, 1), (4, 1, 1)])
def test_adaptive_padding(size, kernel, stride, dilation):
    layer = Conv2dAdaptivePadding(2, 3, kernel, stride, padding=7, dilation=dilation).double()
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    pads = []
    for n, k, s, d in zip(size, layer.kernel_size, layer.stride, layer.dilation):
        total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0)
        pads = [total // 2, total - total // 2, *pads]
    expect = F.conv2d(F.pad(x, pads), layer.weight, layer.bias, layer.stride, 0, layer.dilation)
    out = layer(x)
    torch.testing.assert_close(out, expect)
    assert out.shape[2:] == tuple(-(-n // s) for n, s in zip(size, layer.stride))


def test_conv_ws():
    layer = ConvWS2d(4, 6, 3, stride=2, padding=1, dilation=1, groups=2, eps=1e-3).double()
    assert list(layer.state_dict()) == ["weight", "bias"]
    rows = layer.weight.flatten(1)
    weight = (rows - rows.mean(1, keepdim=True)) / (rows.std(1, keepdim=True) + 1e-3)
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    expect = F.conv2d(x, weight.view_as(layer.weight), layer.bias, 2, 1, 1, 2)
    torch.testing.assert_close(layer(x), expect)
    torch.testing.assert_close(
        conv_ws_2d(x, layer.weight, layer.bias, 2, 1, groups=2, eps=1e-3), expect)


def test_conv_aws():
    layer = ConvAWS2d(4, 6, 3, padding=1, groups=2).double()
    assert list(layer.state_dict()) == ["weight", "bias", "weight_gamma", "weight_beta"]
    layer.weight_gamma.uniform_(0.5, 2)
    layer.weight_beta.normal_()
    rows = layer.weight.flatten(1)
    weight = (rows - rows.mean(1, keepdim=True)) / (rows.var(1, keepdim=True) + 1e-5).sqrt()
    weight = weight * layer.weight_gamma.flatten(1) + layer.weight_beta.flatten(1)
    x = torch.randn(2, 4, 6, 7, dtype=torch.float64)
    expect = F.conv2d(x, weight.view_as(layer.weight), layer.bias, padding=1, groups=2)
    torch.testing.assert_close(layer(x), expect)


@pytest.mark.parametrize("assign", [False, True])
def test_conv_aws_starts_as_the_plain_convolution_of_a_checkpoint(assign):
    plain = nn.Sequential(nn.Conv2d(4, 6, 3))
    layer = nn.Sequential(ConvAWS2d(4, 6, 3))
    state = plain.state_dict()
    layer.load_state_dict(state, strict=True, assign=assign)
    assert list(state) == ["0.weight", "0.bias"]
    x = torch.randn(1, 4, 5, 5)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-4, atol=1e-4)
    assert (layer[0].weight_gamma > 0).all()


def test_conv_aws_keeps_the_buffers_of_a_checkpoint():
    source, target = ConvAWS2d(2, 3, 3), ConvAWS2d(2, 3, 3)
    source.weight_gamma.fill_(-2.0)
    source.weight_beta.fill_(5.0)
    target.load_state_dict(source.state_dict())
    assert (target.weight_gamma == -2).all()
    assert (target.weight_beta == 5).all()


def test_conv_aws_reports_what_is_missing():
    layer = ConvAWS2d(2, 3, 3)
    missing, unexpected = layer.load_state_dict({}, strict=False)
    assert missing == ["weight", "bias"]
    assert unexpected == []
    rows = layer.weight.flatten(1)
    torch.testing.assert_close(layer.weight_beta.flatten(), rows.mean(1))
    missing, _ = layer.load_state_dict(
        {"weight": layer.weight, "bias": layer.bias, "weight_gamma": torch.ones(3, 1, 1, 1)},
        strict=False)
    assert missing == ["weight_beta"]


def test_scale():
    layer = Scale(2)
    assert list(layer.state_dict()) == ["scale"]
    assert layer.scale.dtype == torch.float
    assert layer.scale.shape == ()
    assert layer(torch.ones(2, 3)).eq(2).all()


def test_vgg_state_and_outputs():
    net = VGG(16, with_last_pool=False, ceil_mode=True, out_indices=(3, 4))
    convs = [int(k.split(".")[1]) for k in net.state_dict() if k.endswith("weight")]
    assert convs == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    assert net.range_sub_modules == [[0, 5], [5, 10], [10, 17], [17, 24], [24, 30]]
    assert len(net.features) == 30
    outs = net(torch.randn(1, 3, 33, 40))
    assert [tuple(o.shape) for o in outs] == [(1, 512, 3, 3), (1, 512, 3, 3)]


def test_vgg_options():
    net = VGG(11, with_bn=True, num_stages=2, dilations=(1, 2), out_indices=(1,), frozen_stages=1,
              bn_frozen=True)
    assert [type(m).__name__ for m in net.features] == [
        "Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"] * 2
    assert net.features[4].dilation == net.features[4].padding == (2, 2)
    assert net.train() is net
    assert not net.features[1].training
    assert not net.features[5].training
    assert net.features[4].training
    assert sorted(k for k, p in net.named_parameters() if p.requires_grad) == [
        "features.4.bias", "features.4.weight"]
    assert isinstance(net(torch.randn(1, 3, 8, 8)), torch.Tensor)
    assert VGG(11, with_bn=True, num_stages=1, dilations=(1,), out_indices=(0,),
               bn_eval=False).train().features[1].training


def test_vgg_classifier_and_initialisation():
    with torch.device("meta"):
        net = VGG(11, num_stages=1, dilations=(1,), out_indices=(), num_classes=2)
    assert [tuple(p.shape) for p in net.classifier.parameters()] == [
        (4096, 25088), (4096,), (4096, 4096), (4096,), (2, 4096), (2,)]
    net.classifier = nn.Sequential(nn.Linear(64, 2))
    net.to_empty(device="cpu").init_weights()
    assert net(torch.randn(3, 3, 2, 2)).shape == (3, 2)
    assert not net.classifier[0].bias.any()
    assert 0.005 < net.classifier[0].weight.std() < 0.015
    assert abs(net.features[0].weight.std() - (2 / (64 * 9)) ** 0.5) < 0.01


def test_vgg_loads_a_checkpoint(tmp_path):
    def net():
        return VGG(11, num_stages=1, dilations=(1,), out_indices=(0,))

    source, target = net(), net()
    torch.save(source.state_dict(), tmp_path / "vgg.pth")
    target.init_weights(str(tmp_path / "vgg.pth"))
    assert torch.equal(target.features[0].weight, source.features[0].weight)


@pytest.mark.parametrize(("kwargs", "error", "sentence"), [
    (dict(depth=12), KeyError, "depth of VGG must be one of"),
    (dict(depth=11, num_stages=6), ValueError, "num_stages must be 1 to 5, got 6"),
    (dict(depth=11, dilations=(1, 1)), ValueError, "dilations must have num_stages = 5 entries"),
    (dict(depth=11, out_indices=(9,)), ValueError, "out_indices must not exceed")])
def test_vgg_errors(kwargs, error, sentence):
    with pytest.raises(error, match=sentence):
        VGG(**kwargs)
