"""Positional encodings against their formulas, written element by element."""

import math

import pytest
import torch

from fastdet.cnn.bricks.transformer import build_positional_encoding
from fastdet.models.utils import LearnedPositionalEncoding, SinePositionalEncoding


def padded(bs=2, h=5, w=7):
    mask = torch.zeros(bs, h, w, dtype=torch.bool)
    mask[1, 3:] = True
    mask[1, :, 4:] = True
    return mask


@pytest.mark.parametrize("options", [
    {}, {"normalize": True}, {"normalize": True, "offset": -0.5, "scale": 3, "eps": 0.1},
    {"temperature": 20},
])
def test_sine_is_the_formula(options):
    n, mask = 6, padded()
    got = SinePositionalEncoding(n, **options)(mask)
    full = {"temperature": 10000, "scale": 2 * math.pi, "eps": 1e-6, "offset": 0.0, **options}
    assert got.shape == (2, 12, 5, 7)
    assert got.dtype == torch.float32
    for i, y, x in [(0, 0, 0), (0, 4, 6), (1, 2, 3), (1, 4, 2), (1, 1, 6)]:
        valid = ~mask[i]
        for axis, (count, last) in enumerate([(valid[:y + 1, x].sum(), valid[:, x].sum()),
                                              (valid[y, :x + 1].sum(), valid[y].sum())]):
            at = float(count)
            if options.get("normalize"):
                at = (at + full["offset"]) / (float(last) + full["eps"]) * full["scale"]
            for channel in range(n):
                angle = at / full["temperature"] ** (2 * (channel // 2) / n)
                want = math.cos(angle) if channel % 2 else math.sin(angle)
                assert got[i, axis * n + channel, y, x].item() == pytest.approx(want, abs=1e-5)


def test_sine_of_a_mask_of_numbers():
    encoding = SinePositionalEncoding(4, normalize=True)
    assert torch.equal(encoding(padded().byte()), encoding(padded()))
    assert torch.equal(encoding(padded().long() * 7), encoding(padded()))


def test_sine_normalized_does_not_depend_on_the_padding():
    encoding = SinePositionalEncoding(4, normalize=True)
    alone = encoding(torch.zeros(1, 3, 4, dtype=torch.bool))
    assert torch.equal(encoding(padded())[1:, :, :3, :4], alone)


def test_sine_compiles():
    torch._dynamo.reset()
    encoding = SinePositionalEncoding(4, normalize=True, offset=-0.5)
    form = torch.compile(encoding, fullgraph=True, dynamic=True, backend="aot_eager")
    for h, w in [(5, 7), (6, 9), (8, 5)]:
        torch.testing.assert_close(form(padded(2, h, w)), encoding(padded(2, h, w)))


def test_learned_is_column_beside_row():
    encoding = LearnedPositionalEncoding(3, row_num_embed=6, col_num_embed=8)
    got = encoding(padded())
    assert got.shape == (2, 6, 5, 7)
    for y in range(5):
        for x in range(7):
            want = torch.cat([encoding.col_embed.weight[x], encoding.row_embed.weight[y]])
            assert torch.equal(got[0, :, y, x], want)
    assert torch.equal(got[0], got[1])
    got.sum().backward()
    assert encoding.row_embed.weight.grad[:5].eq(2 * 7).all()
    assert encoding.row_embed.weight.grad[5].eq(0).all()
    assert encoding.col_embed.weight.grad[:7].eq(2 * 5).all()


def test_learned_init():
    encoding = LearnedPositionalEncoding(64)
    encoding.init_weights()
    for weight in encoding.parameters():
        assert weight.shape == (50, 64)
        assert 0 <= weight.min() < 0.01
        assert 0.99 < weight.max() <= 1


def test_by_config_and_repr():
    sine = build_positional_encoding(dict(type="SinePositionalEncoding", num_feats=128,
                                          normalize=True, offset=-0.5))
    assert repr(sine) == ("SinePositionalEncoding(num_feats=128, temperature=10000, normalize=True,"
                          f" scale={2 * math.pi}, eps=1e-06, offset=-0.5)")
    assert not sine.state_dict()
    learned = build_positional_encoding(dict(type="LearnedPositionalEncoding", num_feats=4))
    assert "num_feats=4, row_num_embed=50, col_num_embed=50" in repr(learned)
    assert list(learned.state_dict()) == ["row_embed.weight", "col_embed.weight"]


def test_bad_input():
    with pytest.raises(ValueError, match="even and positive, got 5"):
        SinePositionalEncoding(5)
    with pytest.raises(ValueError, match="scale must be a number where normalize is set"):
        SinePositionalEncoding(4, normalize=True, scale=None)
    with pytest.raises(ValueError, match="a map of 5 x 7 has no place in 4 rows and 50 columns"):
        LearnedPositionalEncoding(4, row_num_embed=4)(padded())
