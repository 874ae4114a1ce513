"""The transformer bricks: rules of identities, positions, deprecated names and configs."""

import pytest
import torch
from torch import nn

from fastdet.cnn.bricks.transformer import (
    FFN,
    AdaptivePadding,
    BaseTransformerLayer,
    MultiheadAttention,
    PatchEmbed,
    PatchMerging,
    TransformerLayerSequence,
    build_attention,
    build_feedforward_network,
    build_transformer_layer_sequence,
)
from fastdet.kernels import dispatch

ATTN = {"type": "MultiheadAttention", "embed_dims": 16, "num_heads": 2}


def layer_cfg(*order, **kwargs):
    return {"type": "BaseTransformerLayer", "attn_cfgs": ATTN, "operation_order": order,
            "ffn_cfgs": {"embed_dims": 16, "feedforward_channels": 24}, **kwargs}


def test_ffn_keys_and_identity():
    ffn = FFN(8, 12, num_fcs=3, dropout_layer={"type": "DropPath", "drop_prob": 0.5}).eval()
    ffn.double()  # in which the layers run as they are; float32 is test_linear.py's
    assert [k for k in ffn.state_dict() if "weight" in k] == [
        "layers.0.0.weight", "layers.1.0.weight", "layers.2.weight"]
    x, identity = torch.randn(2, 2, 5, 8, dtype=torch.float64)
    out = ffn.layers(x)
    assert torch.equal(ffn(x), x + out)
    assert torch.equal(ffn(x, identity), identity + out)
    assert torch.equal(FFN.forward(ffn, x, identity=identity), identity + out)
    ffn.add_identity = False
    assert torch.equal(ffn(x, identity), out)


def test_ffn_deprecated_names():
    with pytest.warns(DeprecationWarning, match="ffn_drop"):
        ffn = FFN(8, 12, dropout=0.25)
    assert ffn.layers[0][2].p == ffn.layers[2].p == 0.25
    with pytest.warns(DeprecationWarning, match="add_identity"):
        assert not FFN(8, 12, add_residual=False).add_identity
    with pytest.raises(ValueError, match="both 'ffn_drop' and its deprecated name 'dropout'"):
        FFN(8, 12, dropout=0.25, ffn_drop=0.1)
    x = torch.randn(2, 8)
    with pytest.warns(DeprecationWarning, match="identity"):
        ffn.eval()(x, residual=x)
    with pytest.warns(UserWarning, match="ignores the arguments foo"):
        FFN(8, 12, foo=1)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        FFN(num_fcs=1)


@pytest.mark.parametrize("shape", [(2, 37, 8), (50, 8), (0, 5, 8), (8,)])
def test_ffn_in_parts(monkeypatch, shape):
    ffn = FFN(8, 16, act_cfg={"type": "GELU"}).eval()
    x = torch.randn(shape)
    whole = ffn(x)
    monkeypatch.setattr(FFN, "_PART_BYTES", 7 * 16 * 4)  # seven rows
    calls = []
    ffn.layers.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        torch.testing.assert_close(ffn(x), whole)
    assert (len(calls) > 1) == (x.numel() // 8 > 14)


def test_attention_is_torchs():
    attn = MultiheadAttention(16, 4).eval()
    q, k = torch.randn(5, 2, 16), torch.randn(7, 2, 16)
    qp, kp = torch.randn(5, 2, 16), torch.randn(7, 2, 16)
    mask = torch.tensor([[False] * 6 + [True], [False] * 7])
    want, weights = attn.attn(q + qp, k + kp, k, key_padding_mask=mask)
    assert weights[0, :, 6].eq(0).all()
    torch.testing.assert_close(
        attn(q, k, query_pos=qp, key_pos=kp, key_padding_mask=mask), q + want)
    # the position of the query serves for keys of its shape; the value gets none
    torch.testing.assert_close(attn(q, query_pos=qp), q + attn.attn(q + qp, q + qp, q)[0])
    with pytest.warns(UserWarning, match="no positional encoding"):
        got = attn(q, k, query_pos=qp)
    torch.testing.assert_close(got, q + attn.attn(q + qp, k, k)[0])


def test_attention_batch_first():
    attn = MultiheadAttention(16, 4, batch_first=True).eval()
    q, k = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    want = attn.attn(q.transpose(0, 1), k.transpose(0, 1), k.transpose(0, 1))[0].transpose(0, 1)
    torch.testing.assert_close(attn(q, k, identity=torch.zeros(1)), want)


def test_attention_deprecated_dropout():
    with pytest.warns(DeprecationWarning, match="attn_drop"):
        attn = MultiheadAttention(16, 4, dropout=0.3)
    assert attn.attn.dropout == attn.dropout_layer.p == 0.3
    assert MultiheadAttention(16, 4).dropout_layer.p == 0.0  # the default is not modified


@pytest.mark.parametrize("pre_norm", [False, True])
def test_layer_order(pre_norm):
    order = ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm")
    if pre_norm:
        order = ("norm", "self_attn", "norm", "cross_attn", "norm", "ffn")
    layer = BaseTransformerLayer(**{k: v for k, v in layer_cfg(*order).items() if k != "type"})
    layer.eval()
    assert layer.pre_norm is pre_norm
    q, k = torch.randn(5, 2, 16), torch.randn(7, 2, 16)
    (sa, ca), (n0, n1, n2), (ffn,) = layer.attentions, layer.norms, layer.ffns
    assert (sa.operation_name, ca.operation_name) == ("self_attn", "cross_attn")
    if pre_norm:
        x = q + sa.attn(n0(q), n0(q), n0(q))[0]
        x = x + ca.attn(n1(x), k, k)[0]
        x = x + ffn.layers(n2(x))
    else:
        x = n0(q + sa.attn(q, q, q)[0])
        x = n1(x + ca.attn(x, k, k)[0])
        x = n2(x + ffn.layers(x))
    torch.testing.assert_close(layer(q, k, k), x)


def test_layer_deprecated_ffn_args_and_unshared_defaults():
    kwargs = {"attn_cfgs": {**ATTN, "embed_dims": 256},
              "operation_order": ("self_attn", "norm", "ffn", "norm")}
    layer = BaseTransformerLayer(feedforward_channels=48, ffn_dropout=0.25, ffn_num_fcs=3, **kwargs)
    assert [m.out_features for m in layer.ffns[0].modules() if isinstance(m, nn.Linear)] == [
        48, 48, 256]
    assert layer.ffns[0].layers[0][2].p == 0.25
    assert BaseTransformerLayer(**kwargs).ffns[0].feedforward_channels == 1024


def test_layer_masks():
    layer = BaseTransformerLayer(ATTN, operation_order=("self_attn", "cross_attn")).eval()
    q, mask = torch.randn(4, 1, 16), torch.ones(4, 4, dtype=torch.bool).triu(1)
    one = layer(q, q, q, attn_masks=[mask, mask])
    with pytest.warns(UserWarning, match="one attn_mask"):
        assert torch.equal(layer(q, q, q, attn_masks=mask), one)
    assert not torch.allclose(layer(q, q, q), one)
    with pytest.raises(ValueError, match="each of the 2 attentions, got 1"):
        layer(q, q, q, attn_masks=[mask])


@pytest.mark.parametrize(("change", "message"), [
    ({"operation_order": ("self_attn", "dance")}, "operation_order must list"),
    ({"operation_order": None}, "operation_order must list"),
    ({"operation_order": ("ffn",)}, "must hold an attention"),
    ({"attn_cfgs": [ATTN, ATTN]}, "attn_cfgs must be a dict or 1"),
    ({"attn_cfgs": None}, "attn_cfgs must be a dict or 1"),
    ({"attn_cfgs": {**ATTN, "batch_first": True}}, "batch_first=True, its layer False"),
    ({"ffn_cfgs": {"embed_dims": 8}}, "embed_dims=8, the attentions 16"),
])
def test_layer_errors(change, message):
    kwargs = {"attn_cfgs": ATTN, "operation_order": ("self_attn", "ffn"),
              "ffn_cfgs": {"embed_dims": 16}, **change}
    with pytest.raises(ValueError, match=message):
        BaseTransformerLayer(**kwargs)


def test_sequence_and_builders():
    cfg = layer_cfg("self_attn", "norm", "ffn", "norm")
    seq = build_transformer_layer_sequence(
        {"type": "TransformerLayerSequence", "transformerlayers": cfg, "num_layers": 2}).eval()
    q = torch.randn(3, 1, 16)
    torch.testing.assert_close(seq(q, None, None), seq.layers[1](seq.layers[0](q)))
    assert (seq.embed_dims, seq.pre_norm, seq.num_layers) == (16, False, 2)
    for bad in ({"transformerlayers": [cfg], "num_layers": 2}, {"num_layers": 2},
                {"transformerlayers": cfg}):
        with pytest.raises(ValueError, match="must be"):
            TransformerLayerSequence(**bad)
    assert isinstance(build_attention(ATTN), MultiheadAttention)
    assert isinstance(build_feedforward_network({"type": "FFN"}), FFN)
    with pytest.raises(KeyError, match="MultiheadAttention"):
        build_attention({"type": "MultiHeadAttention"})


def test_adaptive_padding():
    x = torch.ones(1, 1, 5, 6)
    corner = AdaptivePadding(kernel_size=(4, 2), stride=4)(x)
    assert corner.shape[-2:] == (8, 6)
    assert corner[0, 0].sum(1).tolist() == [6] * 5 + [0] * 3
    same = AdaptivePadding(kernel_size=4, stride=4, padding="same")(x)
    assert same[0, 0].sum(1).tolist() == [0] + [6] * 5 + [0] * 2
    assert AdaptivePadding(2, 2)(x[..., :4, :]).shape == (1, 1, 4, 6)
    assert AdaptivePadding(3, 1, dilation=2).get_pad_shape((5, 6)) == (4, 4)
    with pytest.raises(ValueError, match="'same' or 'corner', got 'valid'"):
        AdaptivePadding(padding="valid")


@pytest.mark.parametrize("kwargs", [
    {"kernel_size": 4, "stride": 4}, {"kernel_size": 4, "stride": None, "padding": 1},
    {"kernel_size": 5, "stride": (2, 3), "dilation": 2, "padding": "same"},
])
def test_patch_embed_predicts_its_size(kwargs):
    embed = PatchEmbed(3, 8, input_size=(30, 43), norm_cfg={"type": "LN"}, **kwargs)
    x, hw = embed(torch.randn(2, 3, 30, 43))
    assert x.shape == (2, hw[0] * hw[1], 8)
    assert (embed.init_out_size, embed.init_input_size) == (hw, (30, 43))


@pytest.mark.parametrize("kwargs", [
    {}, {"padding": "same"}, {"padding": 0}, {"kernel_size": (2, 3)}, {"padding": 1},
    {"stride": 1}, {"kernel_size": 3, "stride": 2}, {"dilation": 2},
])
def test_patch_merging_is_unfold(kwargs):
    merge = PatchMerging(4, 6, **kwargs).double()
    x = torch.randn(2, 7 * 9, 4, dtype=torch.double, requires_grad=True)
    got, hw = merge(x, (7, 9))
    image = x.transpose(1, 2).unflatten(2, (7, 9))
    if merge.adap_padding is not None:
        image = merge.adap_padding(image)
    want = merge.reduction(merge.norm(merge.sampler(image).transpose(1, 2)))
    torch.testing.assert_close(got, want)
    assert got.shape[1] == hw[0] * hw[1]
    cotangent = torch.randn_like(got)
    torch.testing.assert_close(*(torch.autograd.grad(y, x, cotangent)[0] for y in (got, want)))


def test_patch_merging_is_one_operator_unless_someone_looks_in_between():
    merge, x = PatchMerging(4, 6), torch.randn(2, 7 * 9, 4)
    seen = []
    with torch.autocast("cpu", torch.bfloat16), \
            dispatch.observe(lambda name, *_: seen.append(name)):
        want, hw = merge(x, (7, 9))
        types = []
        merge.reduction.register_forward_pre_hook(lambda m, args: types.append(args[0].dtype))
        assert torch.equal(merge(x, (7, 9))[0], want)
        merge.norm.register_forward_hook(lambda m, args, out: types.append(out.dtype))
        assert torch.equal(merge(x, (7, 9))[0], want)
    assert hw == (4, 5)
    assert seen == ["merge_layer_norm"] * 2
    assert types == [torch.float32] * 3  # not what autocast makes of it behind the hook


def test_patch_merging_errors():
    merge = PatchMerging(4, 8)
    with pytest.raises(ValueError, match="6 tokens cannot be a map of 2 x 2"):
        merge(torch.zeros(1, 6, 4), (2, 2))
    with pytest.raises(ValueError, match=r"must be \(H, W\), got 6"):
        merge(torch.zeros(1, 6, 4), 6)
