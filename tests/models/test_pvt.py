"""Pyramid Vision Transformer: checkpoints, initialisation, its parts by formula, errors."""

import logging
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.operators.spatial_reduction_attention import spatial_reduction_attention_eager
from fastdet.models import PyramidVisionTransformer, PyramidVisionTransformerV2
from fastdet.models.backbones.pvt import (
    AbsolutePositionEmbedding,
    MixFFN,
    PVTEncoderLayer,
    SpatialReductionAttention,
)

TINY = {"pretrain_img_size": 32, "embed_dims": 8, "num_layers": [1, 2], "num_stages": 2,
        "num_heads": [1, 2], "strides": [4, 2], "sr_ratios": [4, 1], "mlp_ratios": [2, 2],
        "out_indices": (0, 1), "drop_path_rate": 0.0}


def tiny(cls=PyramidVisionTransformer, **kwargs):
    if cls is PyramidVisionTransformer:
        kwargs = {"patch_sizes": [4, 2], "paddings": [0, 0], **kwargs}
    return cls(**{**TINY, **kwargs})


class TinyV2(PyramidVisionTransformer):
    """Version 2 with two stages: its own constructor fixes the patches of four."""

    def __init__(self, **kwargs):
        super().__init__(patch_sizes=[7, 3], paddings=[3, 1], use_abs_pos_embed=False,
                         norm_after_stage=True, use_conv_ffn=True, **kwargs)


def randomised(model):
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3)
    return model


def official(model):
    """A model's weights under the names and layouts of whai362/PVT."""
    out = {"head.weight": torch.zeros(3, 8), "cls_token": torch.zeros(1, 1, 8)}
    has_pos = any("pos_embed" in k for k in model.state_dict())
    conv = any("ffn.layers.4" in k for k in model.state_dict())
    last = "ffn.layers.4." if conv else "ffn.layers.3."
    for k, v in model.state_dict().items():
        stage, part, rest = k.removeprefix("layers.").split(".", 2)
        stage = int(stage) + 1
        if part == "0":
            out[f"patch_embed{stage}.{rest.replace('projection', 'proj')}"] = v
        elif part == "2":
            out[f"norm{stage}.{rest}"] = v
        elif rest == "0.pos_embed":
            out[f"pos_embed{stage}"] = v
        else:
            block, rest = rest.split(".", 1)
            name = f"block{stage}.{int(block) - has_pos}."
            if rest.startswith("attn.attn.in_proj_"):
                leaf, c = rest.removeprefix("attn.attn.in_proj_"), v.shape[0] // 3
                out[f"{name}attn.q.{leaf}"], out[f"{name}attn.kv.{leaf}"] = v[:c], v[c:]
                continue
            if rest.endswith("weight") and v.shape[-2:] == (1, 1) and "ffn" in rest:
                v = v[..., 0, 0]
            for new, old in (("attn.attn.out_proj", "attn.proj"), ("ffn.layers.0.", "mlp.fc1."),
                             (last, "mlp.fc2."), ("ffn.layers.1.", "mlp.dwconv.dwconv.")):
                rest = rest.replace(new, old)
            out[name + rest] = v
    return out


@pytest.mark.parametrize("cls", [PyramidVisionTransformer, TinyV2])
@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}])
def test_official_checkpoint(tmp_path, caplog, cls, wrap):
    source = randomised(tiny(cls))
    torch.save(wrap(official(source)), tmp_path / "pvt.pth")
    model = tiny(cls, init_cfg={"type": "Pretrained", "checkpoint": str(tmp_path / "pvt.pth")})
    with caplog.at_level(logging.WARNING, "fastdet"):
        model.init_weights()
    assert not caplog.records
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


def test_own_checkpoint_and_deprecated_argument(tmp_path):
    source = randomised(tiny())
    torch.save(source.state_dict(), tmp_path / "own.pth")
    with pytest.warns(DeprecationWarning, match="pretrained is deprecated"):
        model = tiny(pretrained=str(tmp_path / "own.pth"), convert_weights=False)
    model.init_weights()
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), model.parameters()))


def test_tensors_of_another_shape_are_left_out(tmp_path, caplog):
    torch.save(randomised(tiny(pretrain_img_size=64)).state_dict(), tmp_path / "other.pth")
    model = tiny(convert_weights=False,
                 init_cfg={"type": "Pretrained", "checkpoint": str(tmp_path / "other.pth")})
    with caplog.at_level(logging.WARNING, "fastdet"):
        model.init_weights()
    assert "pos_embed" in caplog.text
    assert not model.layers[0][1][0].pos_embed.any()


def test_initialisation():
    model = PyramidVisionTransformer(num_stages=1, num_layers=[2], num_heads=[4], patch_sizes=[4],
                                     strides=[4], paddings=[0], sr_ratios=[2], mlp_ratios=[4],
                                     out_indices=(0,), use_conv_ffn=True)
    in_proj = model.layers[0][1][1].attn.attn.in_proj_weight.clone()
    model.init_weights()
    pos, layer = model.layers[0][1][0], model.layers[0][1][1]
    assert pos.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    out_proj = layer.attn.attn.out_proj
    assert out_proj.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert not out_proj.bias.any()
    assert torch.equal(in_proj, layer.attn.attn.in_proj_weight)  # torch's own, as upstream
    for conv, fan_out in ((layer.attn.sr, 4 * 256), (layer.ffn.layers[0], 1024),
                          (layer.ffn.layers[1], 9), (model.layers[0][0].projection, 16 * 256)):
        assert conv.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
        assert not conv.bias.any()
    assert all(bool((m.weight == 1).all()) for m in model.modules() if isinstance(m, nn.LayerNorm))


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize(("heads", "sr_ratio"), [(4, 1), (4, 2), (1, 2)])
def test_attention_is_its_formula(heads, sr_ratio, qkv_bias):
    module = randomised(SpatialReductionAttention(16, heads, qkv_bias=qkv_bias,
                                                  sr_ratio=sr_ratio)).double()
    x, identity = torch.randn(2, 2, 35, 16, dtype=torch.float64).unbind()
    kv = x
    if sr_ratio > 1:  # the fifth row and the seventh column fill no cell
        cells = module.sr(x.transpose(1, 2).reshape(2, 16, 5, 7))
        assert cells.shape[2:] == (2, 3)
        kv = module.norm(cells.flatten(2).transpose(1, 2))
    qkv = module.attn.in_proj_weight, module.attn.in_proj_bias
    q = F.linear(x, qkv[0][:16], qkv[1][:16] if qkv_bias else None)
    kv = F.linear(kv, qkv[0][16:], qkv[1][16:] if qkv_bias else None)
    out = spatial_reduction_attention_eager(q, kv, heads, (heads / 16) ** 0.5)[0]
    want = identity + module.attn.out_proj(out)
    torch.testing.assert_close(module(x, (5, 7), identity), want)
    torch.testing.assert_close(module(x, (5, 7)) - x, want - identity)


def test_attention_with_the_batch_second():
    module = randomised(SpatialReductionAttention(8, 2, sr_ratio=2)).double()
    x = torch.randn(2, 24, 8, dtype=torch.float64)
    want = module(x, (4, 6))
    module.batch_first = False
    torch.testing.assert_close(module(x.transpose(0, 1), (4, 6)), want.transpose(0, 1))


def test_attention_dropout_acts_in_training_alone():
    module = randomised(SpatialReductionAttention(8, 2, attn_drop=0.5))
    x = torch.randn(1, 12, 8)
    assert not torch.equal(module(x, (3, 4)), module(x, (3, 4)))
    module.eval()
    assert torch.equal(module(x, (3, 4)), module(x, (3, 4)))


@pytest.mark.parametrize("use_conv", [True, False])
def test_ffn_is_its_layers_on_the_map(use_conv):
    module = randomised(MixFFN(6, 10, use_conv=use_conv)).double()
    x, identity = torch.randn(2, 2, 20, 6, dtype=torch.float64).unbind()
    out = module.layers(x.transpose(1, 2).reshape(2, 6, 4, 5)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(module(x, (4, 5)), x + out)
    torch.testing.assert_close(module(x, (4, 5), identity), identity + out)


def test_one_head_projects_its_values():
    """Few of them in place of the mean of each query, where nobody looks and the weights sum to
    one: with a hook, or with dropout of the weights, the layer gets what it always gets."""
    module = randomised(SpatialReductionAttention(8, 1, attn_drop=0.5, sr_ratio=2)).eval()
    x, seen, out_proj = torch.randn(2, 24, 8).requires_grad_(), [], module.attn.out_proj
    leaves = [x, *module.parameters()]
    want = torch.autograd.grad(module(x, (4, 6)).square().sum(), leaves)
    with out_proj.register_forward_hook(lambda m, args, out: seen.append(tuple(args[0].shape))):
        torch.testing.assert_close(
            torch.autograd.grad(module(x, (4, 6)).square().sum(), leaves), want)
    assert seen == [(2, 24, 8)]
    module.train()
    with torch.no_grad():
        out_proj.bias.fill_(3.0)
        out_proj.weight.zero_()
    torch.testing.assert_close(module(x, (4, 6)) - x, torch.full_like(x, 3.0))


@pytest.mark.parametrize("layer", [
    nn.Conv2d(10, 10, 3, padding=2, dilation=2, groups=10), nn.Conv2d(10, 10, 5, padding=2),
    nn.Conv2d(10, 10, 3, padding=1, groups=10, padding_mode="circular")], ids=str)
def test_ffn_runs_another_convolution_as_it_is(layer):
    module = MixFFN(6, 10, use_conv=True)
    module.layers[1] = layer
    x = torch.randn(2, 20, 6)
    out = module.layers(x.transpose(1, 2).reshape(2, 6, 4, 5)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(module(x, (4, 5)), x + out)


@pytest.mark.parametrize("name", ["layers.1", "layers.2"])
def test_ffn_calls_what_is_hooked(name):
    module = MixFFN(6, 10, use_conv=True)
    x, seen = torch.randn(2, 20, 6), []
    want = module(x, (4, 5))
    module.get_submodule(name).register_forward_hook(lambda m, args, out: seen.append(out))
    torch.testing.assert_close(module(x, (4, 5)), want)
    assert len(seen) == 1


def test_ffn_shares_its_dropout_and_has_its_activation_once():
    module = MixFFN(6, 10, ffn_drop=0.3, dropout_layer={"type": "DropPath", "drop_prob": 0.1},
                    use_conv=True)
    assert isinstance(module.layers[2], nn.GELU)
    assert list(module._modules) == ["layers", "dropout_layer"]
    assert module.layers[3] is module.layers[5]
    assert module.layers[3].p == 0.3
    assert module.dropout_layer.drop_prob == 0.1


def test_layer_hands_its_rates_on():
    layer = PVTEncoderLayer(8, 2, 16, drop_rate=0.1, attn_drop_rate=0.2, drop_path_rate=0.3)
    assert layer.attn.proj_drop.p == layer.ffn.layers[2].p == 0.1
    assert layer.attn.attn.dropout == 0.2
    assert layer.attn.dropout_layer.drop_prob == layer.ffn.dropout_layer.drop_prob == 0.3


def test_drop_path_grows_over_all_stages():
    model = tiny(drop_path_rate=0.2)
    rates = [m.attn.dropout_layer.drop_prob for m in model.modules()
             if isinstance(m, PVTEncoderLayer)]
    assert rates == pytest.approx([0, 0.1, 0.2])


def test_position_embedding():
    module = AbsolutePositionEmbedding((2, 3), 4)
    module.init_weights()
    x = torch.zeros(1, 24, 4)
    grid = module.pos_embed.view(1, 2, 3, 4).permute(0, 3, 1, 2)
    want = F.interpolate(grid, size=(4, 6), mode="bilinear", align_corners=False)
    torch.testing.assert_close(module(x, (4, 6)), want.flatten(2).transpose(1, 2))
    near = module(x, (4, 6), mode="nearest").view(4, 6, 4)
    assert torch.equal(near[::2, ::2], grid[0].permute(1, 2, 0))
    assert torch.equal(module(x[:, :6], (2, 3)), module.pos_embed)
    with_token = torch.cat([torch.ones(1, 1, 4), module.pos_embed], 1)
    assert torch.equal(module.resize_pos_embed(with_token, (2, 3)), module.pos_embed)


def test_position_embeddings_follow_the_image_of_pretraining():
    model = tiny(pretrain_img_size=(32, 64))
    assert [stage[1][0].pos_shape for stage in model.layers] == [(8, 16), (4, 8)]
    assert tiny(pretrain_img_size=(32,)).layers[0][1][0].pos_shape == (8, 8)


def test_outputs_are_contiguous_and_any_size_fits():
    model = tiny().eval()
    for height, width in ((32, 32), (40, 72)):
        outs = model(torch.randn(2, 3, height, width))
        assert [tuple(out.shape) for out in outs] == [
            (2, 8, height // 4, width // 4), (2, 16, height // 8, width // 8)]
        assert all(out.is_contiguous() for out in outs)
    assert len(tiny(out_indices=(1,))(torch.randn(1, 3, 32, 32))) == 1


def test_version_2():
    model = PyramidVisionTransformerV2(embed_dims=8, num_layers=[1, 1, 1, 1]).eval()
    assert not any(isinstance(m, AbsolutePositionEmbedding) for m in model.modules())
    assert all(isinstance(stage[2], nn.LayerNorm) for stage in model.layers)
    shapes = [tuple(out.shape[1:]) for out in model(torch.randn(1, 3, 64, 96))]
    assert shapes == [(8, 16, 24), (16, 8, 12), (40, 4, 6), (64, 2, 3)]


def test_compiles_in_one_graph_for_every_size():
    one = {k: v[:1] for k, v in TINY.items() if isinstance(v, (list, tuple))}
    model = tiny(num_stages=1, patch_sizes=[4], paddings=[0], **one).eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager", dynamic=True)
    with torch._dynamo.config.patch(recompile_limit=3, fail_on_recompile_limit_hit=True):
        for size in ((32, 48), (48, 64), (80, 64)):
            x = torch.randn(1, 3, *size)
            for got, want in zip(compiled(x), model(x)):
                torch.testing.assert_close(got, want)


@pytest.mark.parametrize(("kwargs", "message"), [
    ({"num_heads": [1]}, r"num_heads must have num_stages=2 entries, got \[1\]"),
    ({"sr_ratios": [8, 4, 2]}, "sr_ratios must have num_stages=2 entries"),
    ({"out_indices": (2,)}, "out_indices must be 0 to 1"),
    ({"pretrain_img_size": (1, 2, 3)}, "pretrain_img_size must be one or two numbers"),
    ({"pretrained": "a", "init_cfg": {"type": "Pretrained"}}, "cannot be given together")])
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        tiny(**kwargs)


def test_bad_calls():
    with pytest.raises(ValueError, match=r"init_cfg of PyramidVisionTransformer must be None or"):
        tiny(init_cfg={"type": "Kaiming", "layer": "Conv2d"}).init_weights()
    with pytest.raises(ValueError, match=r"expected tokens \[B, 3 \* 4, C\], got \[1, 13, 8\]"):
        SpatialReductionAttention(8, 2)(torch.zeros(1, 13, 8), (3, 4))
    with pytest.raises(ValueError, match="expected tokens"):
        MixFFN(8, 8)(torch.zeros(1, 13, 8), (3, 4))
    with pytest.raises(ValueError, match="pos_shape must be one or two numbers"):
        AbsolutePositionEmbedding((1, 2, 3), 4)
    with pytest.raises(ValueError, match=r"pos_embed must be \[1, n, pos_dim\]"):
        AbsolutePositionEmbedding(2, 4).resize_pos_embed(torch.zeros(4, 4), (2, 2))
