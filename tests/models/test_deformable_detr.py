"""Multi-scale deformable attention as a layer, and the transformer of Deformable DETR."""

import copy
import math

import pytest
import torch
from torch import nn

from benchmarks.operators.multi_scale_deformable_attention import (
    multi_scale_deformable_attention_eager,
)
from fastdet.cnn.bricks.transformer import build_attention, build_transformer_layer_sequence
from fastdet.kernels.multi_scale_deformable_attention import level_table
from fastdet.models.utils import build_transformer
from fastdet.models.utils.transformer import inverse_sigmoid
from fastdet.ops import (
    MultiScaleDeformableAttention,
    MultiScaleDeformableAttnFunction,
    multi_scale_deform_attn,
    multi_scale_deformable_attn_pytorch,
)

SIZES = [(6, 5), (3, 3)]
KEYS = sum(h * w for h, w in SIZES)


# ------------------------------------------------------------------ the layer
def layer(**kwargs):
    kwargs = {"embed_dims": 16, "num_heads": 4, "num_levels": 2, "num_points": 3, "dropout": 0.0,
              **kwargs}
    attn = MultiScaleDeformableAttention(**kwargs).double()
    for p in attn.parameters():  # as built, nothing depends on the query
        nn.init.normal_(p, std=0.3)
    return attn


def layer_inputs(last=2, queries=7):
    table = level_table(SIZES, torch.device("cpu"))
    draw = dict(dtype=torch.float64)
    return dict(query=torch.randn(2, queries, 16, **draw), value=torch.randn(2, KEYS, 16, **draw),
                query_pos=torch.randn(2, queries, 16, **draw),
                reference_points=torch.rand(2, queries, 2, last, **draw),
                spatial_shapes=table[0], level_start_index=table[1])


def by_hand(attn, query, value, query_pos, reference_points, mask=None, identity=None, **_):
    """Batch first, by ``grid_sample``."""
    heads, levels, points = attn.num_heads, attn.num_levels, attn.num_points
    identity = query if identity is None else identity
    query = query + query_pos
    value = attn.value_proj(value)
    if mask is not None:
        value = value * (~mask).unsqueeze(-1)
    shape = (*query.shape[:2], heads, levels, points)
    offsets = attn.sampling_offsets(query).view(*shape, 2)
    weights = attn.attention_weights(query).view(*shape[:3], -1).softmax(-1).view(shape)
    reference = reference_points.view(*shape[:2], 1, levels, 1, -1)
    if reference.shape[-1] == 2:
        scale = torch.tensor([(w, h) for h, w in SIZES], dtype=torch.float64).reciprocal()
        scale = scale.view(levels, 1, 2)
    else:
        scale = reference[..., 2:] / (2 * points)
    out = multi_scale_deformable_attention_eager(
        value.view(*value.shape[:2], heads, -1), SIZES, reference[..., :2] + offsets * scale,
        weights)
    return identity + attn.output_proj(out)


@pytest.mark.parametrize("last", [2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_layer_is_the_formula_in_both_orders(last, masked):
    attn, x = layer(batch_first=True), layer_inputs(last)
    mask = torch.rand(2, KEYS) > 0.6 if masked else None
    want = by_hand(attn, mask=mask, **x)
    torch.testing.assert_close(attn(**x, key_padding_mask=mask), want)
    grads = torch.autograd.grad(want.square().sum(), list(attn.parameters()))
    attn.batch_first = False
    for name in ("query", "value", "query_pos"):
        x[name] = x[name].transpose(0, 1).contiguous()
    got = attn(**x, key_padding_mask=mask)
    torch.testing.assert_close(got.transpose(0, 1), want)
    assert got.is_contiguous()
    for mine, other in zip(torch.autograd.grad(got.square().sum(), list(attn.parameters())), grads):
        torch.testing.assert_close(mine, other)


def test_layer_defaults_of_value_and_identity():
    attn, x = layer(batch_first=True), layer_inputs(queries=KEYS)
    query = x["query"]
    want = by_hand(attn, **{**x, "value": query})
    del x["value"]
    torch.testing.assert_close(attn(**x), want)
    torch.testing.assert_close(attn(**x, identity=query * 2), want + query)
    with pytest.warns(DeprecationWarning, match="'residual' of MultiScaleDeformableAttention"):
        torch.testing.assert_close(attn(**x, residual=query * 2), want + query)
    del x["level_start_index"]
    torch.testing.assert_close(attn(**x), want)


def test_layer_keys_defaults_and_init():
    attn = build_attention({"type": "MultiScaleDeformableAttention"})
    assert {k: tuple(v.shape) for k, v in attn.state_dict().items()} == {
        "sampling_offsets.weight": (256, 256), "sampling_offsets.bias": (256,),
        "attention_weights.weight": (128, 256), "attention_weights.bias": (128,),
        "value_proj.weight": (256, 256), "value_proj.bias": (256,),
        "output_proj.weight": (256, 256), "output_proj.bias": (256,)}
    assert (attn.num_levels, attn.num_points, attn.num_heads, attn.embed_dims) == (4, 4, 8, 256)
    assert (attn.dropout.p, attn.im2col_step, attn.batch_first) == (0.1, 64, False)
    assert attn.norm_cfg is None
    for m in (attn.sampling_offsets, attn.attention_weights):
        assert m.weight.eq(0).all()
    assert attn.attention_weights.bias.eq(0).all()
    bound = math.sqrt(6 / 512)
    for m in (attn.value_proj, attn.output_proj):
        assert m.bias.eq(0).all()
        assert 0.9 * bound < m.weight.abs().max() <= bound
    offsets = attn.sampling_offsets.bias.view(8, 4, 4, 2)
    assert torch.equal(offsets, offsets[:, :1].expand_as(offsets))
    ways = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for point in range(4):
        torch.testing.assert_close(offsets[:, 0, point], torch.tensor(ways) * (point + 1.0),
                                   atol=1e-6, rtol=1e-6)


def test_layer_is_initialised_by_its_parents_rule_once_more():
    attn = MultiScaleDeformableAttention(embed_dims=8, num_heads=2)
    before = copy.deepcopy(attn.state_dict())
    with torch.no_grad():
        attn.sampling_offsets.weight.fill_(1)
    attn.init_weights()
    assert attn.is_init
    assert torch.equal(attn.sampling_offsets.weight, before["sampling_offsets.weight"])
    assert torch.equal(attn.sampling_offsets.bias, before["sampling_offsets.bias"])


@pytest.mark.parametrize(("change", "text"), [
    (dict(reference_points=None), "needs reference_points, got None"),
    (dict(spatial_shapes=None), "needs spatial_shapes, got None"),
    (dict(reference_points=torch.zeros(2, 7, 2, 3)), r"must be 2 or 4, got \[2, 7, 2, 3\]"),
    (dict(spatial_shapes=torch.tensor([[6, 5], [3, 2]])), "do not fill the 39 keys"),
])
def test_layer_bad_input(change, text):
    with pytest.raises(ValueError, match=text):
        layer(batch_first=True)(**{**layer_inputs(), **change})


def test_layer_bad_config():
    with pytest.raises(ValueError, match="embed_dims=10, num_heads=4"):
        MultiScaleDeformableAttention(embed_dims=10, num_heads=4)


def test_functions_of_mmcv():
    value = torch.randn(2, KEYS, 2, 4, dtype=torch.float64, requires_grad=True)
    places = torch.rand(2, 5, 2, 2, 3, 2, dtype=torch.float64)
    weights = torch.rand(2, 5, 2, 2, 3, dtype=torch.float64)
    sizes, starts = level_table(SIZES, torch.device("cpu"))
    want = multi_scale_deformable_attention_eager(value, SIZES, places, weights)
    got = multi_scale_deformable_attn_pytorch(value, sizes, places, weights)
    torch.testing.assert_close(got, want)
    got = MultiScaleDeformableAttnFunction.apply(value, sizes, starts, places, weights, 64)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(*(torch.autograd.grad(o.sum(), value)[0] for o in (got, want)))


# ------------------------------------------------------------------ the transformer
def config(dims=16, layers=2, intermediate=True, **kwargs):
    """The config of the model zoo, smaller."""
    deformable = {"type": "MultiScaleDeformableAttention", "embed_dims": dims}
    if dims != 256:
        deformable |= {"num_heads": 4, "num_levels": 2, "num_points": 2}
    plain = {"type": "MultiheadAttention", "embed_dims": dims, "num_heads": 8, "dropout": 0.1}
    ffn = {"feedforward_channels": 4 * dims, "ffn_dropout": 0.1}
    if dims != 256:
        ffn = {"ffn_cfgs": {"type": "FFN", "embed_dims": dims, "feedforward_channels": 24}}
    return {
        "type": "DeformableDetrTransformer",
        "encoder": {
            "type": "DetrTransformerEncoder", "num_layers": layers, "transformerlayers": {
                "type": "BaseTransformerLayer", "attn_cfgs": deformable, **ffn,
                "operation_order": ("self_attn", "norm", "ffn", "norm")}},
        "decoder": {
            "type": "DeformableDetrTransformerDecoder", "num_layers": layers,
            "return_intermediate": intermediate, "transformerlayers": {
                "type": "DetrTransformerDecoderLayer", "attn_cfgs": [plain, deformable],
                "feedforward_channels": 24, **ffn,
                "operation_order": ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm")}},
        **kwargs}


def build(**kwargs):
    with pytest.warns(DeprecationWarning, match="'dropout' of MultiheadAttention"):
        model = build_transformer(config(**{"num_feature_levels": 2, **kwargs}))
    model.init_weights()
    for m in model.modules():  # so that where a query looks depends on the query
        if isinstance(m, MultiScaleDeformableAttention):
            nn.init.normal_(m.sampling_offsets.weight, std=0.2)
            nn.init.normal_(m.attention_weights.weight, std=0.2)
    return model.double().eval()


def model_inputs(dims=16, sizes=SIZES, queries=5):
    def maps():
        return [torch.randn(2, dims, h, w, dtype=torch.float64) for h, w in sizes]

    masks = [torch.zeros(2, h, w, dtype=torch.bool) for h, w in sizes]
    return dict(mlvl_feats=maps(), mlvl_masks=masks, mlvl_pos_embeds=maps(),
                query_embed=torch.randn(queries, 2 * dims, dtype=torch.float64))


def branches(outputs, count=3, dims=16):
    return nn.ModuleList(nn.Linear(dims, outputs) for _ in range(count)).double()


def test_the_zoos_config():
    """Built as it is, forward and backward, all parameters in use."""
    with pytest.warns(DeprecationWarning, match="'dropout' of MultiheadAttention"):
        model = build_transformer(config(256, 6))
    model.init_weights()
    sizes = [(5, 7), (3, 4), (2, 2), (1, 1)]
    x = {k: v.float() if k == "query_embed" else [t if t.dtype == torch.bool else t.float()
                                                  for t in v]
         for k, v in model_inputs(256, sizes, 9).items()}
    states, first, points, *none = model(**x)
    assert states.shape == (6, 9, 2, 256)
    assert first.shape == (2, 9, 2)
    assert points.shape == (6, 2, 9, 2)
    assert none == [None, None]
    assert all(torch.equal(p, first) for p in points)
    (states.square().sum() + first.sum()).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert list(model.state_dict())[:1] == ["level_embeds"]
    assert model.state_dict()["reference_points.weight"].shape == (2, 256)


def test_the_whole_is_that_with_grid_sample(monkeypatch):
    model, x = build(), model_inputs()
    got = model(**x)
    calls = []

    def eager(value, sizes, starts, places, weights):
        calls.append(starts.tolist())
        return multi_scale_deformable_attention_eager(value, sizes.tolist(), places, weights)

    monkeypatch.setattr(multi_scale_deform_attn, "multi_scale_deformable_attention", eager)
    for mine, other in zip(got[:3], model(**x)[:3]):
        torch.testing.assert_close(mine, other)
    assert calls == [[0, 30]] * 4


def test_padding_changes_nothing():
    """An image gives the same inside a larger, padded batch: samples beyond it are zero in both."""
    model, small = build(), model_inputs(sizes=[(4, 6), (2, 3)])
    want = model(**small)
    large = model_inputs(sizes=[(6, 8), (3, 4)])
    for name in ("mlvl_feats", "mlvl_pos_embeds"):
        for big, part in zip(large[name], small[name]):
            big[..., :part.shape[2], :part.shape[3]] = part
    for big, part in zip(large["mlvl_masks"], small["mlvl_masks"]):
        big[:, part.shape[1]:] = True
        big[:, :, part.shape[2]:] = True
    for mine, other in zip(model(**{**large, "query_embed": small["query_embed"]})[:3], want[:3]):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)  # ratios are float32


@pytest.mark.parametrize("refine", [False, True])
def test_refinement_moves_the_reference_points(refine):
    model, x = build(), model_inputs()
    moves = branches(4) if refine else None
    states, first, points, *_ = model(**x, reg_branches=moves)
    assert points.shape == (2, 2, 5, 4 if refine else 2)
    if refine:
        move = moves[0](states[0].transpose(0, 1))
        at = torch.cat([inverse_sigmoid(first), torch.zeros_like(first)], -1)
        torch.testing.assert_close(points[0], (move + at).sigmoid())
        move = moves[1](states[1].transpose(0, 1))
        torch.testing.assert_close(points[1], (move + inverse_sigmoid(points[0])).sigmoid())
        assert not points.requires_grad
        assert first.requires_grad


def test_two_stages():
    model = build(as_two_stage=True, two_stage_num_proposals=6)
    assert [k.partition(".")[0] for k in model.state_dict() if not k.startswith(("enc_output_n",))
            ][-6:] == ["enc_output"] * 2 + ["pos_trans"] * 2 + ["pos_trans_norm"] * 2
    x = {**model_inputs(), "query_embed": None}
    x["mlvl_masks"][0][1, 4:] = True
    x["mlvl_masks"][1][1, 2:] = True
    moves, scores = branches(4), branches(3)
    states, first, points, classes, boxes = model(**x, reg_branches=moves, cls_branches=scores)
    assert states.shape == (2, 6, 2, 16)
    assert first.shape == (2, 6, 4)
    assert points.shape == (2, 2, 6, 4)
    assert classes.shape == (2, KEYS, 3)
    assert boxes.shape == (2, KEYS, 4)
    for image in range(2):
        best = classes[image, :, 0].argsort(descending=True)[:6]
        torch.testing.assert_close(first[image], boxes[image, best].sigmoid())
    assert not first.requires_grad
    mask = torch.cat([m.flatten(1) for m in x["mlvl_masks"]], 1)
    assert boxes[mask].isinf().all()
    finite = boxes[~mask].isfinite()
    assert finite.any()
    assert torch.equal(finite.all(-1), finite.any(-1))
    (states.square().sum() + classes.square().sum()).backward()
    unused = {n for n, p in model.named_parameters() if p.grad is None}
    assert unused == set()


def test_proposals_are_boxes_around_the_places():
    model = build(as_two_stage=True)
    memory = torch.randn(1, KEYS, 16, dtype=torch.float64)
    mask = torch.zeros(1, KEYS, dtype=torch.bool)
    mask.view(1, -1)[:, :30].view(1, 6, 5)[:, 4:] = True  # four of six rows of the first level
    found, logits = model.gen_encoder_output_proposals(memory, mask, torch.tensor(SIZES))
    i = 0
    for level, (h, w) in enumerate(SIZES):
        rows = 4 if level == 0 else h
        for y in range(h):
            for x in range(w):
                if y < rows:
                    want = torch.tensor([(x + 0.5) / w, (y + 0.5) / rows, *[0.05 * 2**level] * 2])
                    torch.testing.assert_close(logits[0, i].sigmoid(), want)
                    kept = memory[0, i]
                else:
                    assert logits[0, i].eq(math.inf).all()
                    kept = torch.zeros(16, dtype=torch.float64)
                torch.testing.assert_close(found[0, i],
                                           model.enc_output_norm(model.enc_output(kept)))
                i += 1


def test_proposals_at_the_border_are_none():
    model = build(as_two_stage=True)
    memory, mask = torch.zeros(1, 80, 16).double(), torch.zeros(1, 80, dtype=torch.bool)
    _, logits = model.gen_encoder_output_proposals(memory, mask, [(1, 80)])
    centers = (torch.arange(80) + 0.5) / 80
    real = (centers > 0.01) & (centers < 0.99)
    assert torch.equal(logits[0, :, 0].isfinite(), real)
    assert (~real).sum() == 2


def test_reference_points_are_centres_on_every_level():
    model = build()
    ratios = torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[0.6, 0.5], [2 / 3, 1 / 3]]])
    for sizes in (SIZES, torch.tensor(SIZES)):
        points = model.get_reference_points(sizes, ratios, device="cpu")
        assert points.shape == (2, KEYS, 2, 2)
        # image 0 is not padded: the same place on all levels
        torch.testing.assert_close(points[0, 7], torch.tensor([2.5 / 5, 1.5 / 6]).expand(2, 2))
        torch.testing.assert_close(points[0, 34], torch.tensor([1.5 / 3, 1.5 / 3]).expand(2, 2))
        # image 1: a share of the valid part, then of each level's padded size
        share = torch.tensor([2.5 / (5 * 0.6), 1.5 / (6 * 0.5)])
        torch.testing.assert_close(points[1, 7], share * ratios[1])


def test_valid_ratio():
    mask = torch.zeros(2, 4, 5, dtype=torch.bool)
    mask[1, 3:] = True
    mask[1, :, 2:] = True
    torch.testing.assert_close(build().get_valid_ratio(mask),
                               torch.tensor([[1.0, 1.0], [2 / 5, 3 / 4]]))


def test_embedding_of_proposals():
    logits = torch.randn(2, 3, 4)
    got = build().get_proposal_pos_embed(logits, 6, 20)
    assert got.shape == (2, 3, 24)
    assert build().get_proposal_pos_embed(logits).shape == (2, 3, 512)
    for number in range(4):
        for channel in range(6):
            angle = logits[1, 2, number].sigmoid() * 2 * math.pi / 20 ** (2 * (channel // 2) / 6)
            want = angle.cos() if channel % 2 else angle.sin()
            torch.testing.assert_close(got[1, 2, number * 6 + channel], want)


def test_decoder_returns_the_last_layer_alone():
    model = build(intermediate=False)
    every = copy.deepcopy(model)
    every.decoder.return_intermediate = True
    x = model_inputs()
    states, _, points, *_ = model(**x)
    stacked = every(**x)
    assert torch.equal(states, stacked[0][-1])
    assert torch.equal(points, stacked[2][-1])


def test_init_weights():
    with pytest.warns(DeprecationWarning, match="'dropout' of MultiheadAttention"):
        model = build_transformer(config(256, 1))
    assert model.level_embeds.eq(0).all()  # and not memory as it was
    for p in model.parameters():
        nn.init.constant_(p, 0.1)
    model.init_weights()
    assert model.reference_points.bias.eq(0).all()
    assert model.level_embeds.std().item() == pytest.approx(1, abs=0.1)
    attentions = [m for m in model.modules() if isinstance(m, MultiScaleDeformableAttention)]
    assert len(attentions) == 2
    for m in attentions:
        assert m.attention_weights.weight.eq(0).all()
        assert m.sampling_offsets.bias.abs().max() == 4
    ffn = model.encoder.layers[0].ffns[0].layers[1].weight
    bound = math.sqrt(6 / sum(ffn.shape))
    assert 0.9 * bound < ffn.abs().max() <= bound


@pytest.mark.parametrize(("change", "model", "text"), [
    (dict(query_embed=None), {}, "query_embed must be given"),
    (dict(), dict(as_two_stage=True), "needs reg_branches and cls_branches, got None and None"),
    (dict(), dict(num_feature_levels=3), "expected 3 levels, got 2"),
])
def test_bad_input(change, model, text):
    with pytest.raises(ValueError, match=text):
        build(**model)(**{**model_inputs(), **change})


@pytest.mark.parametrize(("change", "text"), [
    (dict(), "needs reference_points, got None"),
    (dict(reference_points=torch.zeros(2, 5, 2)), "needs valid_ratios, got None"),
    (dict(reference_points=torch.zeros(2, 5, 3), valid_ratios=torch.ones(2, 2, 2)),
     r"2 or 4, got \[2, 5, 3\]"),
])
def test_decoder_bad_input(change, text):
    with pytest.warns(DeprecationWarning, match="'dropout' of MultiheadAttention"):
        decoder = build_transformer_layer_sequence(config()["decoder"])
    with pytest.raises(ValueError, match=text):
        decoder(query=torch.zeros(5, 2, 16), key=None, value=None, **change)


@pytest.mark.slow
@torch.no_grad()
def test_traced_whole_with_changing_sizes():
    """One graph serves all sizes; what a backend makes of it is the operators' tests' subject."""
    torch._dynamo.reset()
    model = build(layers=1)
    form = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    with torch._dynamo.config.patch(recompile_limit=2):
        for sizes in (SIZES, [(7, 9), (4, 5)], [(8, 6), (4, 3)]):
            x = model_inputs(sizes=sizes)
            for mine, other in zip(form(**x)[:3], model(**x)[:3]):
                torch.testing.assert_close(mine, other)
