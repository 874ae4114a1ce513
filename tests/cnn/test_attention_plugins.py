"""NonLocal, ContextBlock and GeneralizedAttention against naive forms."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastdet.cnn import (
    ContextBlock,
    ConvModule,
    DepthwiseSeparableConvModule,
    GeneralizedAttention,
    NonLocal1d,
    NonLocal2d,
    NonLocal3d,
)

CASES = [(NonLocal1d, (6,)), (NonLocal2d, (4, 6)), (NonLocal3d, (2, 4, 2))]
MODES = ["embedded_gaussian", "gaussian", "dot_product", "concatenation"]


def randomised(module):
    """Give every parameter a random value, so that zero initialisation hides nothing."""
    for p in module.parameters():
        if p.is_floating_point():
            nn.init.normal_(p, std=0.5)
    return module.double()


def naive_non_local(block, x):
    """The definition, one pair of positions at a time."""
    g = block.g(x).flatten(2)
    if block.mode == "gaussian":
        theta = x.flatten(2)
        phi = (block.phi(x) if block.sub_sample else x).flatten(2)
    else:
        theta, phi = block.theta(x).flatten(2), block.phi(x).flatten(2)
    weight = x.new_zeros(x.shape[0], theta.shape[2], phi.shape[2])
    for i, j in itertools.product(range(theta.shape[2]), range(phi.shape[2])):
        q, k = theta[:, :, i], phi[:, :, j]
        if block.mode == "concatenation":
            both = torch.cat([q, k], 1)[..., None, None]
            weight[:, i, j] = block.concat_project(both).flatten()
        else:
            weight[:, i, j] = (q * k).sum(1)
    if "gaussian" in block.mode:
        if block.mode == "embedded_gaussian" and block.use_scale:
            weight = weight / math.sqrt(block.inter_channels)
        weight = weight.softmax(2)
    else:
        weight = weight / phi.shape[2]
    y = torch.einsum("bij,bcj->bci", weight, g).unflatten(2, x.shape[2:])
    return x + block.conv_out(y)


@pytest.mark.parametrize(("cls", "size"), CASES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sub_sample", [False, True])
def test_non_local(cls, size, mode, sub_sample):
    reduction = 1 if mode == "gaussian" else 2
    block = randomised(cls(4, mode=mode, sub_sample=sub_sample, reduction=reduction))
    x = torch.randn(2, 4, *size, dtype=torch.float64, requires_grad=True)
    out, expect = block(x), naive_non_local(block, x)
    torch.testing.assert_close(out, expect)
    cotangent = torch.randn_like(out)
    wanted = [x, *block.parameters()]
    for got, want in zip(torch.autograd.grad(out, wanted, cotangent),
                         torch.autograd.grad(expect, wanted, cotangent)):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("mode", MODES)
def test_non_local_takes_other_layouts_and_empty_batches(mode):
    block = randomised(NonLocal2d(4, mode=mode, reduction=1))
    x = torch.randn(2, 4, 3, 6, dtype=torch.float64)
    expect = block(x)
    torch.testing.assert_close(block(x.to(memory_format=torch.channels_last)), expect)
    torch.testing.assert_close(block(x.expand(2, -1, -1, -1)[:, :, :, ::2]),
                               block(x[:, :, :, ::2].contiguous()))
    assert block(x[:0]).shape == (0, 4, 3, 6)


def test_non_local_without_scale():
    block = randomised(NonLocal2d(4, use_scale=False))
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64)
    torch.testing.assert_close(block(x), naive_non_local(block, x))
    block.use_scale = True
    torch.testing.assert_close(block(x), naive_non_local(block, x))


def test_non_local_state_and_initialisation():
    block = NonLocal2d(64, norm_cfg=dict(type="BN"))
    names = [n for n, _ in block.named_parameters()]
    assert names == ["g.conv.weight", "g.conv.bias", "conv_out.conv.weight", "conv_out.bn.weight",
                     "conv_out.bn.bias", "theta.conv.weight", "theta.conv.bias", "phi.conv.weight",
                     "phi.conv.bias"]
    assert not block.conv_out.bn.weight.any()
    for embedding in (block.g, block.theta, block.phi):
        assert 0.008 < embedding.conv.weight.std() < 0.012
        assert not embedding.conv.bias.any()
    assert not NonLocal2d(8).conv_out.conv.weight.any()
    drawn = NonLocal2d(64, zeros_init=False, std=0.1, sub_sample=True)
    assert 0.08 < drawn.conv_out.conv.weight.std() < 0.12
    assert 0.08 < drawn.g[0].conv.weight.std() < 0.12
    drawn.init_weights()
    assert not drawn.conv_out.conv.weight.any()
    assert next(iter(drawn.state_dict())) == "g.0.conv.weight"
    assert NonLocal2d(1).inter_channels == 1
    assert isinstance(NonLocal2d(4, mode="gaussian", sub_sample=True).phi, nn.MaxPool2d)
    with pytest.raises(ValueError, match="mode must be one of gaussian"):
        NonLocal2d(4, mode="cosine")


@pytest.mark.parametrize("pooling", ["att", "avg"])
@pytest.mark.parametrize("fusion", [("channel_add",), ("channel_mul",),
                                    ("channel_add", "channel_mul")])
def test_context_block(pooling, fusion):
    block = randomised(ContextBlock(8, 0.5, pooling, fusion))
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    if pooling == "att":
        weight = block.conv_mask(x).flatten(1).softmax(1).view(2, 1, 3, 4)
        context = (x * weight).sum((2, 3), keepdim=True)
    else:
        context = x.mean((2, 3), keepdim=True)

    def transform(layers):
        first, norm, _, last = layers
        hidden = F.layer_norm(first(context), (4, 1, 1), norm.weight, norm.bias)
        return last(hidden.relu())

    expect = x
    if "channel_mul" in fusion:
        expect = expect * torch.sigmoid(transform(block.channel_mul_conv))
    if "channel_add" in fusion:
        expect = expect + transform(block.channel_add_conv)
    torch.testing.assert_close(block(x), expect)


def test_context_block_state_and_initialisation():
    block = ContextBlock(64, 0.25, fusion_types=["channel_add", "channel_mul"])
    transform = ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]
    assert list(block.state_dict()) == [
        "conv_mask.weight", "conv_mask.bias", *(f"channel_add_conv.{t}" for t in transform),
        *(f"channel_mul_conv.{t}" for t in transform)]
    assert not block.channel_add_conv[3].weight.any()
    assert not block.channel_mul_conv[3].weight.any()
    assert 0.1 < block.conv_mask.weight.std() < 0.25
    x = torch.randn(2, 64, 3, 3)
    torch.testing.assert_close(block(x), x / 2)


@pytest.mark.parametrize(("kwargs", "error", "sentence"), [
    (dict(pooling_type="max"), ValueError, "pooling_type must be 'att' or 'avg', got 'max'"),
    (dict(fusion_types="channel_add"), TypeError, "fusion_types must be a list or tuple, got str"),
    (dict(fusion_types=()), ValueError, "fusion_types must hold"),
    (dict(fusion_types=("add",)), ValueError, "fusion_types must hold")])
def test_context_block_errors(kwargs, error, sentence):
    with pytest.raises(error, match=sentence):
        ContextBlock(8, 0.5, **kwargs)


def naive_attention(block, x):
    """The definition with loops over queries and keys."""
    content, relative, key_only, position_only = block.attention_type
    heads, d = block.num_heads, block.qk_embed_dim
    b, _, height, width = x.shape
    x_q = x[:, :, ::block.q_stride, ::block.q_stride]
    x_kv = x[:, :, ::block.kv_stride, ::block.kv_stride]
    (h, w), (h_kv, w_kv) = x_q.shape[2:], x_kv.shape[2:]
    value = block.value_conv(x_kv).view(b, heads, d, h_kv, w_kv)
    zero = x.new_zeros(heads, d)
    u = block.appr_bias.view(heads, d) if key_only else zero
    v = block.geom_bias.view(heads, d) if position_only else zero
    query = (block.query_conv(x_q) if content or relative else x.new_zeros(b, heads * d, h, w))
    query = query.view(b, heads, d, h, w)
    key = block.key_conv(x_kv) if content or key_only else x.new_zeros(b, heads * d, h_kv, w_kv)
    key = key.view(b, heads, d, h_kv, w_kv)

    def feature(fc, i, k):
        delta = (i * block.q_stride - k * block.kv_stride) * block.position_magnitude
        quarter = block.position_embedding_dim // 4
        phase = [delta / 1000 ** (4 * f / block.position_embedding_dim) for f in range(quarter)]
        sines = [math.sin(p) for p in phase] + [math.cos(p) for p in phase]
        return fc(x.new_tensor(sines)).view(heads, d) / math.sqrt(2)

    out = x.new_zeros(b, heads, d, h, w)
    reach, stride = block.spatial_range, block.kv_stride
    for i, j in itertools.product(range(h), range(w)):
        energy = x.new_full((b, heads, h_kv, w_kv), -math.inf)
        for k, m in itertools.product(range(h_kv), range(w_kv)):
            if reach >= 0 and not ((i - reach) // stride <= k <= (i + reach + 1) // stride
                                   and (j - reach) // stride <= m <= (j + reach + 1) // stride):
                continue
            q_y, q_x, q = query[:, :, :, i, j], query[:, :, :, i, j], query[:, :, :, i, j]
            if relative and not position_only:
                q_y = query[:, :, :, j, i]  # as in mmcv
            e = x.new_zeros(b, heads)
            if content or key_only:
                e = e + ((q * content + u) * key[:, :, :, k, m]).sum(2)
            if relative or position_only:
                e = e + ((q_y * relative + v) * feature(block.appr_geom_fc_y, i, k)).sum(2)
                e = e + ((q_x * relative + v) * feature(block.appr_geom_fc_x, j, m)).sum(2)
            energy[:, :, k, m] = e
        weight = energy.flatten(2).softmax(2).view_as(energy)
        out[:, :, :, i, j] = torch.einsum("bnkm,bndkm->bnd", weight, value)
    out = block.proj_conv(out.flatten(1, 2))
    if block.q_stride > 1:
        out = F.interpolate(out, size=(height, width), mode="bilinear", align_corners=False)
    return x + block.gamma * out


ALL_TYPES = ["".join(t) for t in itertools.product("01", repeat=4)]


def square_only(attention_type):
    return attention_type[1] == "1" and attention_type[3] == "0"


@pytest.mark.parametrize("attention_type", ALL_TYPES)
@pytest.mark.parametrize("strides", [(1, 2), (2, 1)])
def test_generalized_attention(attention_type, strides):
    size = (4, 4) if square_only(attention_type) else (3, 5)
    block = randomised(GeneralizedAttention(
        8, num_heads=2, position_embedding_dim=12, position_magnitude=2, q_stride=strides[0],
        kv_stride=strides[1], attention_type=attention_type))
    x = torch.randn(2, 8, *size, dtype=torch.float64, requires_grad=True)
    out, expect = block(x), naive_attention(block, x)
    torch.testing.assert_close(out, expect)
    cotangent = torch.randn_like(out)
    wanted = [x, *block.parameters()]
    options = dict(allow_unused=True, materialize_grads=True)
    for got, want in zip(torch.autograd.grad(out, wanted, cotangent, **options),
                         torch.autograd.grad(expect, wanted, cotangent, **options)):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("attention_type", [t for t in ALL_TYPES if square_only(t)])
def test_generalized_attention_that_needs_a_square_map(attention_type):
    block = GeneralizedAttention(8, num_heads=2, attention_type=attention_type)
    with pytest.raises(ValueError, match="needs a square map of queries, got 2 x 3"):
        block(torch.randn(1, 8, 2, 3))


@pytest.mark.parametrize(("attention_type", "kv_stride"), [("1111", 2), ("1111", 1), ("1000", 3)])
def test_generalized_attention_in_a_local_range(attention_type, kv_stride):
    block = randomised(GeneralizedAttention(256, spatial_range=1, num_heads=64,
                                            position_embedding_dim=8, kv_stride=kv_stride,
                                            attention_type=attention_type))
    x = torch.randn(1, 256, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(block(x), naive_attention(block, x))


def test_local_constraint_map():
    block = GeneralizedAttention(512, spatial_range=3, num_heads=8, kv_stride=2)
    stored = block.local_constraint_map
    assert stored.shape == (42, 42, 21, 21)
    assert stored.dtype == torch.uint8
    assert not stored.requires_grad
    expect = torch.ones(42, 42, 21, 21, dtype=torch.uint8)
    for i, j in itertools.product(range(42), range(42)):
        rows = slice(max((i - 3) // 2, 0), (i + 4) // 2 + 1)
        columns = slice(max((j - 3) // 2, 0), (j + 4) // 2 + 1)
        expect[i, j, rows, columns] = 0
    assert torch.equal(stored, expect)
    with torch.no_grad():
        assert block(torch.randn(1, 512, 2, 45)).shape == (1, 512, 2, 45)


def test_generalized_attention_state_and_initialisation():
    block = GeneralizedAttention(256, spatial_range=-1, num_heads=8, attention_type="1111")
    assert [(k, tuple(v.shape)) for k, v in block.state_dict().items()] == [
        ("appr_bias", (256,)), ("geom_bias", (256,)), ("gamma", (1,)),
        ("query_conv.weight", (256, 256, 1, 1)), ("key_conv.weight", (256, 256, 1, 1)),
        ("value_conv.weight", (256, 256, 1, 1)), ("appr_geom_fc_x.weight", (256, 128)),
        ("appr_geom_fc_y.weight", (256, 128)), ("proj_conv.weight", (256, 256, 1, 1)),
        ("proj_conv.bias", (256,))]
    assert not block.gamma.any()
    assert not block.proj_conv.bias.any()
    bound = math.sqrt(3 / 256)  # Kaiming, uniform, leaky_relu with a = 1
    assert 0.95 * bound < block.query_conv.weight.abs().max() <= bound
    assert 0.9 / 8 < block.appr_bias.abs().max() <= 1 / 8
    x = torch.randn(1, 256, 3, 4)
    assert torch.equal(block(x), x)
    assert list(GeneralizedAttention(8, num_heads=2, attention_type="0010").state_dict()) == [
        "appr_bias", "gamma", "key_conv.weight", "value_conv.weight", "proj_conv.weight",
        "proj_conv.bias"]


@pytest.mark.parametrize("block", [
    ConvModule(8, 8, 3, padding=1, padding_mode="reflect", norm_cfg=dict(type="BN")),
    DepthwiseSeparableConvModule(8, 8, 3, conv_cfg=dict(type="ConvAWS")),
    ConvModule(8, 8, 3, stride=2, conv_cfg=dict(type="Conv2dAdaptivePadding")),
    NonLocal2d(8), NonLocal2d(8, mode="dot_product", sub_sample=True), ContextBlock(8, 0.5),
    GeneralizedAttention(8, num_heads=2)], ids=lambda b: type(b).__name__)
def test_traces_whole_at_changing_sizes(block):
    torch._dynamo.reset()
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(block, fullgraph=True, backend=count)
    for size in ((8, 10), (6, 14), (12, 8), (10, 18)):
        x = torch.randn(2, 8, *size)
        torch.testing.assert_close(compiled(x), block(x))
    assert len(graphs) <= 2  # one at fixed sizes, one at any


@pytest.mark.parametrize(("kwargs", "sentence"), [
    (dict(attention_type="111"), "attention_type must be four digits 0 or 1, got '111'"),
    (dict(attention_type="1211"), "attention_type must be four digits 0 or 1, got '1211'"),
    (dict(spatial_range=3), "spatial_range needs in_channels of 256 or 512, got 8")])
def test_generalized_attention_errors(kwargs, sentence):
    with pytest.raises(ValueError, match=sentence):
        GeneralizedAttention(8, num_heads=2, **kwargs)
