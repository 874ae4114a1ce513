"""Swin Transformer: checkpoints, freezing, checkpointing, windows on their own, errors."""

import copy

import pytest
import torch

from fastdet.models.backbones.swin import (
    ShiftWindowMSA,
    SwinBlockSequence,
    SwinTransformer,
    WindowMSA,
)
from fastdet.models.utils.ckpt_convert import swin_converter

TINY = {"embed_dims": 8, "depths": (2, 2), "num_heads": (1, 2), "strides": (4, 2),
        "out_indices": (0, 1), "window_size": 4, "drop_path_rate": 0.0}


def tiny(**kwargs):
    return SwinTransformer(**{**TINY, **kwargs})


def randomised(model):
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3)
    return model


def official(model):
    """A model's weights under the names and orders of microsoft/Swin-Transformer."""
    out = {"head.weight": torch.zeros(3, 16), "norm.weight": torch.zeros(16),
           "layers.0.blocks.1.attn_mask": torch.zeros(1, 16, 16)}
    for k, v in model.state_dict().items():
        if k.startswith("norm"):
            continue
        for new, old in (("stages", "layers"), ("w_msa.", ""), ("projection", "proj"),
                         ("ffn.layers.0.0", "mlp.fc1"), ("ffn.layers.1", "mlp.fc2")):
            k = k.replace(new, old, 1)
        if "downsample" in k:
            # ours: channel, row, column; theirs: the tokens (0, 0), (1, 0), (0, 1), (1, 1)
            v = v.unflatten(-1, (-1, 2, 2))
            v = torch.cat([v[..., r, c] for c in (0, 1) for r in (0, 1)], -1)
        if k == "absolute_pos_embed":
            v = v.flatten(2).transpose(1, 2)
        out[k] = v
    return out


def loaded(path, **kwargs):
    model = tiny(init_cfg={"type": "Pretrained", "checkpoint": str(path)}, **kwargs)
    model.init_weights()
    return model


def test_official_checkpoint(tmp_path):
    kwargs = {"use_abs_pos_embed": True, "pretrain_img_size": (32, 48)}
    source = randomised(tiny(**kwargs))
    torch.save({"model": official(source)}, tmp_path / "official.pth")
    model = loaded(tmp_path / "official.pth", convert_weights=True, **kwargs)
    got, want = model.state_dict(), source.state_dict()
    for key in want:
        if not key.startswith("norm"):  # the official classifier has no norms of stages
            assert torch.equal(got[key], want[key]), key


def test_official_merging_is_the_same_function():
    source = randomised(tiny())
    state = official(source)
    x = torch.randn(1, 6, 10, 8)
    merged = torch.cat([x[:, r::2, c::2] for c in (0, 1) for r in (0, 1)], -1).flatten(1, 2)
    merged = torch.nn.functional.layer_norm(
        merged, (32,), state["layers.0.downsample.norm.weight"],
        state["layers.0.downsample.norm.bias"])
    want = merged @ state["layers.0.downsample.reduction.weight"].T
    got, hw = source.stages[0].downsample(x.flatten(1, 2), (6, 10))
    torch.testing.assert_close(got, want)
    assert hw == (3, 5)
    assert all(k.startswith("backbone.") for k in swin_converter(state))


@pytest.mark.parametrize("prefix", ["", "backbone.", "module.", "module.backbone."])
def test_checkpoint_prefixes(tmp_path, prefix):
    source = randomised(tiny())
    state = {prefix + k: v for k, v in source.state_dict().items()}
    if "backbone" in prefix:
        state["neck.weight"] = torch.zeros(1)
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    x = torch.randn(1, 3, 40, 40)
    for got, want in zip(loaded(tmp_path / "a.pth").eval()(x), source.eval()(x)):
        assert torch.equal(got, want)


def test_checkpoint_of_another_window_and_map(tmp_path):
    kwargs = {"use_abs_pos_embed": True}
    source = randomised(tiny(pretrain_img_size=32, **kwargs))
    with torch.no_grad():
        for name, p in source.named_parameters():
            if "bias_table" in name or "absolute" in name:
                p.fill_(0.5)
    torch.save(source.state_dict(), tmp_path / "a.pth")
    model = loaded(tmp_path / "a.pth", window_size=7, pretrain_img_size=48, **kwargs)
    msa = model.stages[1].blocks[0].attn.w_msa
    assert msa.relative_position_bias_table.shape == (169, 2)
    assert msa.relative_position_index.shape == (49, 49)
    assert msa._standard_index
    torch.testing.assert_close(msa.relative_position_bias_table, torch.full((169, 2), 0.5))
    torch.testing.assert_close(model.absolute_pos_embed, torch.full((1, 8, 12, 12), 0.5))
    with pytest.raises(ValueError, match="for 2 heads, the model has 4"):
        loaded(tmp_path / "a.pth", num_heads=(1, 4), pretrain_img_size=32, **kwargs)


def test_init_from_scratch_keeps_bias_tables_at_zero(caplog):
    model = tiny(use_abs_pos_embed=True)
    model.init_weights()
    assert "from scratch" in caplog.text
    msa = model.stages[0].blocks[0].attn.w_msa
    assert msa.relative_position_bias_table.eq(0).all()
    assert 0 < msa.qkv.weight.std() < 0.03
    assert msa.qkv.bias.eq(0).all()
    assert model.absolute_pos_embed.std() > 0
    msa.init_weights()
    assert msa.relative_position_bias_table.std() > 0


@pytest.mark.parametrize("frozen", [-1, 0, 1, 2])
def test_frozen_stages(frozen):
    model = tiny(frozen_stages=frozen, use_abs_pos_embed=True, drop_rate=0.1)
    assert all(p.requires_grad for p in model.parameters())  # only train() freezes
    assert model.train() is model
    prefixes = ["patch_embed.", "absolute_pos_embed"] if frozen >= 0 else []
    for i in range(frozen):
        prefixes += [f"stages.{i}.", f"norm{i}."]
    for name, p in model.named_parameters():
        assert p.requires_grad != name.startswith(tuple(prefixes)), name
    assert model.drop_after_pos.training == (frozen < 0)
    assert [s.training for s in model.stages] == [i >= frozen for i in range(2)]


def test_checkpointing_gives_the_same_gradients():
    model = randomised(tiny(drop_path_rate=0.5, attn_drop_rate=0.1, drop_rate=0.1)).train()
    twin = copy.deepcopy(model)
    for block in (b for stage in twin.stages for b in stage.blocks):
        block.with_cp = True
    x = torch.randn(2, 3, 36, 28)
    for m in (model, twin):
        torch.manual_seed(1)
        sum(out.square().mean() for out in m(x)).backward()
    for (name, p), q in zip(model.named_parameters(), twin.parameters()):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


@pytest.mark.parametrize("shift", [0, 2])
def test_windows_on_their_own(shift):
    """On a map of whole windows, the module of one window does what the one of the map does."""
    attn = randomised(ShiftWindowMSA(8, 2, 4, shift_size=shift)).eval()
    x = torch.randn(2, 8, 12, 8)
    windows = x.roll((-shift, -shift), (1, 2))
    windows = windows.view(2, 2, 4, 3, 4, 8).transpose(2, 3).reshape(12, 16, 8)
    rows = torch.tensor([0] * 4 + [1] * (4 - shift) + [2] * shift)
    columns = torch.tensor([0] * 8 + [1] * (4 - shift) + [2] * shift)
    region = (3 * rows[:, None] + columns).view(2, 4, 3, 4).transpose(1, 2).reshape(6, 16)
    mask = (region[:, None] != region[:, :, None]) * -100.0
    out = attn.w_msa(windows, mask if shift else None)
    out = out.view(2, 2, 3, 4, 4, 8).transpose(2, 3).reshape(2, 8, 12, 8)
    out = out.roll((shift, shift), (1, 2)).flatten(1, 2)
    torch.testing.assert_close(attn(x.flatten(1, 2), (8, 12)), out)


def test_rectangular_window():
    msa = randomised(WindowMSA(8, 2, (2, 3))).eval()
    table = msa.relative_position_bias_table
    bias = table.new_empty(2, 6, 6)
    for i in range(6):
        for j in range(6):
            dr, dc = i // 3 - j // 3, i % 3 - j % 3
            bias[:, i, j] = table[(dr + 1) * 5 + dc + 2]
    x = torch.randn(4, 6, 8)
    q, k, v = msa.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    out = torch.softmax(q @ k.mT / 2 + bias, -1) @ v
    torch.testing.assert_close(msa(x), msa.proj(out.transpose(1, 2).flatten(2)))


def test_other_index_in_a_checkpoint():
    attn = randomised(ShiftWindowMSA(8, 2, 4, shift_size=2)).eval()
    x = torch.randn(1, 40, 8)
    before = attn(x, (8, 5))
    state = copy.deepcopy(attn.state_dict())
    index = state["w_msa.relative_position_index"]
    attn.load_state_dict(state)
    assert attn.w_msa._standard_index
    attn.load_state_dict({**state, "w_msa.relative_position_index": index.T.contiguous()})
    assert not attn.w_msa._standard_index
    after = attn(x, (8, 5))
    assert not torch.allclose(after, before)
    # the transposed index reads the table backwards
    with torch.no_grad():
        attn.w_msa.relative_position_bias_table.copy_(
            attn.w_msa.relative_position_bias_table.flip(0))
    torch.testing.assert_close(attn(x, (8, 5)), before)
    attn.load_state_dict(state)
    assert attn.w_msa._standard_index


def test_no_qkv_bias_and_scale():
    attn = randomised(ShiftWindowMSA(8, 2, 4, qkv_bias=False, qk_scale=0.0)).eval()
    assert attn.w_msa.scale == 0.5
    x = torch.randn(1, 9, 8)
    padded = torch.zeros(1, 4, 4, 8)
    padded[:, :3, :3] = x.view(1, 3, 3, 8)
    want = attn.w_msa(padded.flatten(1, 2)).view(1, 4, 4, 8)[:, :3, :3].flatten(1, 2)
    torch.testing.assert_close(attn(x, (3, 3)), want)


def test_drop_path_grows_with_depth():
    model = tiny(drop_path_rate=0.3)
    rates = [b.attn.drop.drop_prob for s in model.stages for b in s.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    assert rates == [b.ffn.dropout_layer.drop_prob for s in model.stages for b in s.blocks]


def test_autocast():
    model = randomised(tiny()).eval()
    x = torch.randn(1, 3, 36, 52)
    with torch.no_grad():
        want = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            got = model(x)
    for a, b in zip(got, want):
        assert (a - b).abs().mean() < 0.1 * b.abs().mean()


def test_outputs_are_contiguous_maps():
    outs = tiny(patch_norm=False).eval()(torch.randn(2, 3, 30, 45))
    assert [tuple(o.shape) for o in outs] == [(2, 8, 8, 12), (2, 16, 4, 6)]
    assert all(o.is_contiguous() for o in outs)


@pytest.mark.slow
def test_compiles_whole_at_changing_sizes():
    model = randomised(tiny()).eval()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    sizes = [(36, 52), (52, 44), (76, 60), (44, 92)]
    with torch.no_grad():
        for hw in sizes[:2]:
            compiled(torch.randn(1, 3, *hw))
        with torch._dynamo.config.patch(error_on_recompile=True):
            for hw in sizes[2:]:
                x = torch.randn(1, 3, *hw)
                torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize(("kwargs", "message"), [
    ({"num_heads": (1,)}, "num_heads must have one entry for each of the 2 stages"),
    ({"strides": (4,)}, "strides must have one entry for each of the 2 stages"),
    ({"num_heads": (3, 2)}, "multiple of num_heads, got 8 and 3"),
    ({"out_indices": (0, 2)}, r"out_indices must be 0 to 1, got \(0, 2\)"),
    ({"strides": (2, 2)}, "must be patch_size"),
    ({"frozen_stages": 3}, "frozen_stages must be at most 2"),
    ({"pretrain_img_size": (1, 2, 3)}, "one or two numbers"),
    ({"pretrained": "a.pth", "init_cfg": {"type": "Pretrained", "checkpoint": "b.pth"}},
     "init_cfg and pretrained"),
])
def test_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        tiny(**kwargs)


def test_more_errors():
    with pytest.raises(ValueError, match="below window_size 4, got 4"):
        ShiftWindowMSA(8, 2, 4, shift_size=4)
    with pytest.raises(ValueError, match="10 tokens cannot be a map of 3 x 3"):
        ShiftWindowMSA(8, 2, 4)(torch.zeros(1, 10, 8), (3, 3))
    with pytest.raises(ValueError, match="has 16 tokens, got 15"):
        WindowMSA(8, 2, (4, 4))(torch.zeros(1, 15, 8))
    with pytest.raises(ValueError, match="multiple of the 2 windows of mask, got 3"):
        WindowMSA(8, 2, (4, 4))(torch.zeros(3, 16, 8), torch.zeros(2, 16, 16))
    with pytest.raises(ValueError, match="a number or 2 of them, one per block, got 3"):
        SwinBlockSequence(8, 2, 16, 2, drop_path_rate=[0.0] * 3)
    with pytest.raises(ValueError, match="must be None or dict"):
        tiny(init_cfg={"type": "Normal", "layer": "Linear"}).init_weights()


def test_pretrained_is_init_cfg(tmp_path):
    source = randomised(tiny())
    torch.save(source.state_dict(), tmp_path / "a.pth")
    with pytest.warns(DeprecationWarning, match="pretrained is deprecated"):
        model = tiny(pretrained=str(tmp_path / "a.pth"))
    model.init_weights()
    assert torch.equal(model.patch_embed.projection.weight, source.patch_embed.projection.weight)
