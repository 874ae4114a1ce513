"""Conversions and counts of whole models, the wrappers' helpers and half precision's."""

import io

import pytest
import torch
from torch import nn

from fastdet.cnn import (
    MODELS,
    ConvModule,
    build_model_from_cfg,
    fuse_conv_bn,
    get_model_complexity_info,
)
from fastdet.cnn.bricks.wrappers import NewEmptyTensorOp, obsolete_torch_version
from fastdet.cnn.utils.flops_counter import flops_to_string, params_to_string
from fastdet.models import BACKBONES, ResNet
from fastdet.runner import Sequential, wrap_fp16_model
from fastdet.runner.fp16 import cast_tensor_type, patch_norm_fp32


def randomised(model):
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.5, 2)
            nn.init.uniform_(m.weight, 0.5, 2)
            nn.init.uniform_(m.bias)
    return model.double().eval()


@pytest.mark.parametrize("model", [
    lambda: ResNet(18, base_channels=4, out_indices=(3,)),
    lambda: ConvModule(3, 4, 3, norm_cfg=dict(type="BN")),
    lambda: ConvModule(3, 4, 3, norm_cfg=dict(type="BN"), order=("conv", "act", "norm")),
    lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
    lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=True), nn.ReLU())])
def test_folded_norms_change_no_number(model):
    model = randomised(model())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    want = model(x)
    assert fuse_conv_bn(model) is model
    torch.testing.assert_close(model(x), want)


def test_a_norm_is_gone_only_where_it_follows_its_convolution():
    fused = fuse_conv_bn(nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)))
    kinds = [type(m).__name__ for m in fused]
    assert kinds == ["Conv2d", "Identity", "Conv2d", "ReLU", "BatchNorm2d"]


def test_complexity_is_mmcvs():
    count = dict(print_per_layer_stat=False, as_strings=False)
    assert get_model_complexity_info(ResNet(18), (3, 128, 128), **count) == (594821120, 11176512)
    net = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2), nn.Upsample(scale_factor=2),
                        nn.GroupNorm(2, 6), nn.AdaptiveAvgPool2d(1))
    assert get_model_complexity_info(net, (4, 8, 8), **count) == (43302, 234)
    out = io.StringIO()
    assert get_model_complexity_info(net, (4, 8, 8), ost=out) == ("0.0 GFLOPs", "234")
    assert "0: ConvTranspose2d" in out.getvalue()
    assert get_model_complexity_info(
        net, (4, 8, 8), input_constructor=lambda s: {"input": torch.zeros(2, *s)}, **count
    ) == (2 * 43302 - 6 * 34 * 34, 234)  # an upsampling is counted for one image
    assert not net[0]._forward_hooks
    with pytest.raises(ValueError, match="at least one number"):
        get_model_complexity_info(net, ())
    with pytest.raises(TypeError, match="a module and a tuple, got Sequential and"):
        get_model_complexity_info(net, [3, 8, 8])


@pytest.mark.parametrize(("text", "want"), [
    (flops_to_string(1234, None), "1.23 KFLOPs"), (flops_to_string(5, None), "5 FLOPs"),
    (flops_to_string(2.345e9), "2.35 GFLOPs"), (flops_to_string(1.5e6, "MFLOPs"), "1.5 MFLOPs"),
    (params_to_string(5), "5"), (params_to_string(1234), "1.23 k"),
    (params_to_string(1234, "K"), "1.23 K"), (params_to_string(1.5e6), "1.5 M")])
def test_numbers_in_words(text, want):
    assert text == want


def test_mmcvs_registry_is_behind_mmdets():
    @MODELS.register_module()
    class OfMmcv(nn.Identity):
        pass

    try:
        assert isinstance(BACKBONES.build(dict(type="OfMmcv")), OfMmcv)
        chain = build_model_from_cfg([dict(type="OfMmcv")] * 2, MODELS)
        assert isinstance(chain, Sequential)
        assert len(chain) == 2
    finally:
        del MODELS.module_dict["OfMmcv"]


def test_helpers_of_the_wrappers():
    assert obsolete_torch_version((1, 4), (1, 4))
    assert not obsolete_torch_version((2, 13), (1, 4))
    x = torch.zeros(0, 3, requires_grad=True)
    out = NewEmptyTensorOp.apply(x, (0, 5))
    assert out.shape == (0, 5)
    out.sum().backward()
    assert x.grad.shape == (0, 3)


def test_half_precision_of_a_model():
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4),
                        nn.LayerNorm(4)).half()
    assert patch_norm_fp32(net) is net
    assert [m.weight.dtype for m in net] == [
        torch.float16, torch.float32, torch.float32, torch.float16]
    assert net[2](torch.ones(1, 4, 2, 2).half()).dtype == torch.float16
    net[0].fp16_enabled = False
    wrap_fp16_model(net)
    assert net[0].fp16_enabled
    assert not hasattr(net[1], "fp16_enabled")
    ones = torch.ones(1)
    cast = cast_tensor_type({"a": [ones.half(), "s"], "b": (ones, None)}, torch.half, torch.float)
    assert cast == {"a": [ones, "s"], "b": (ones, None)}
    assert cast["a"][0].dtype == torch.float32
