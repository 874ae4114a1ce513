"""DyHead's combination: the reference against explicit loops, the kernels against fp64."""

import pytest
import torch

import fastdet
from fastdet.kernels.dyhead_attention import Act, Attention, dyhead_attention
from fastdet.kernels.dyhead_attention import op as op_module
from fastdet.kernels.dyhead_convs import Convolved, Pyramid, convolutions
from fastdet.kernels.dyhead_convs.reference import moments_of_tiles
from fastdet.testing import assert_accurate

#: Sizes of the levels, each half of the one before, rounded up.
CASES = {
    "two": ((6, 10), (3, 5)),
    "odd": ((7, 5), (4, 3), (2, 2)),
    "alone": ((3, 4),),
    "pixel": ((2, 1), (1, 1)),
    "rows": ((1, 5), (1, 3)),
}
PARTS = {"norms": 6, "attention": 2, "squeeze": 2, "excite": 2}
TILE = 16


def inputs(case, b=2, c=6, dtype=torch.float64, device="cpu", parameters=None, mean=0.0):
    """Leaves by name: maps, norms, attention, the two layers of the dynamic ReLU."""
    rows = Pyramid(b, CASES[case]).rows
    drawn = {
        "maps": torch.randn(rows, c, dtype=torch.float64) * (1 + torch.rand(c)) + mean,
        **{f"norms{i}": torch.randn(c, dtype=torch.float64) for i in range(6)},
        "attention0": torch.randn(c, dtype=torch.float64),
        "attention1": torch.rand(1, dtype=torch.float64),
        "squeeze0": torch.randn(3, c, dtype=torch.float64),
        "squeeze1": torch.randn(3, dtype=torch.float64),
        "excite0": torch.randn(4 * c, 3, dtype=torch.float64),
        "excite1": torch.randn(4 * c, dtype=torch.float64)}
    return {k: v.to(device, dtype if k == "maps" else parameters or dtype).requires_grad_()
            for k, v in drawn.items()}


def combine(case, leaves, groups=2, channels_last=False, **kwargs):
    sizes = CASES[case]
    h, w = sizes[0]
    of_image = 3 * sum(h * w for h, w in sizes) - 2 * h * w
    pyramid = Pyramid(len(leaves["maps"]) // of_image, sizes)
    stats = moments_of_tiles(leaves["maps"], *pyramid, TILE)
    parameters = {name: tuple(leaves[f"{name}{i}"] for i in range(n)) for name, n in PARTS.items()}
    return dyhead_attention(Convolved(leaves["maps"], stats, pyramid, TILE),
                            Attention(groups=groups, **parameters, **kwargs),
                            channels_last=channels_last)


def run(case, leaves, given, **kwargs):
    outs = combine(case, leaves, **kwargs)
    grads = torch.autograd.grad(outs, list(leaves.values()),
                                [g.to(out.dtype) for g, out in zip(given, outs)],
                                allow_unused=True)
    return {**{f"out {i}": out for i, out in enumerate(outs)},
            **{f"d {k}": g for k, g in zip(leaves, grads)}}


def resized(y, H, W):
    """Corners aligned, by the distance of every pixel to every other."""
    out = torch.empty(len(y), H, W, dtype=y.dtype)
    for i in range(H):
        for j in range(W):
            p = i * (y.shape[1] - 1) / max(1, H - 1)
            q = j * (y.shape[2] - 1) / max(1, W - 1)
            out[:, i, j] = sum(y[:, m, n] * max(0, 1 - abs(p - m)) * max(0, 1 - abs(q - n))
                               for m in range(y.shape[1]) for n in range(y.shape[2]))
    return out


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_reference_is_what_loops_say(case):
    leaves, sizes = inputs(case), CASES[case]
    got = combine(case, leaves, eps=0.1, scale_act=Act(1.0, 4.0, 0.2, 0.9),
                  relu_act=Act(2.0, 5.0, 0.1, 0.8))
    start, maps = 0, [[[] for _ in sizes] for _ in range(2)]
    for branch, _, level, grid in convolutions(len(sizes)):
        h, w = sizes[grid]
        for b in range(2):
            x = leaves["maps"][start:start + h * w].t().reshape(6, h, w)
            start += h * w
            y = torch.cat([(g - g.mean()) / (g.var(correction=0) + 0.1).sqrt()
                           for g in x.split(3)])
            y = (y * leaves[f"norms{2 * branch}"][:, None, None]
                 + leaves[f"norms{2 * branch + 1}"][:, None, None])
            maps[b][level].append(resized(y, *sizes[level]))
    for b in range(2):
        for level, of_level in enumerate(maps[b]):
            out = 0
            for y in of_level:
                logit = (y.mean((1, 2)) * leaves["attention0"]).sum() + leaves["attention1"]
                scale = min(0.9, max(0.2, (max(0.0, logit.item()) + 1) / 4))
                out = out + y * scale / len(of_level)
            hidden = (leaves["squeeze0"] @ out.mean((1, 2)) + leaves["squeeze1"]).clamp(min=0)
            lines = ((leaves["excite0"] @ hidden + leaves["excite1"] + 2) / 5).clamp(0.1, 0.8) - 0.5
            a1, b1, a2, b2 = lines.view(4, 6, 1, 1)
            want = torch.maximum(out * (2 * a1 + 1) + b1, out * 2 * a2 + b2)
            torch.testing.assert_close(got[level][b], want)


def test_reference_gradcheck():
    leaves = inputs("two", b=1, c=2)
    names = list(leaves)
    assert torch.autograd.gradcheck(
        lambda *values: combine("two", dict(zip(names, values)), groups=1), list(leaves.values()))


@pytest.mark.parametrize(("change", "text"), [
    ({"norms3": torch.zeros(5)}, r"norms must be \[6\] on cpu for 6 channels, got \[5\]"),
    ({"attention1": torch.zeros(2)}, r"attention must be \[1\] on cpu for 6 channels, got \[2\]"),
    ({"excite0": torch.zeros(24, 2)}, r"excite must be \[24, 3\] on cpu for 6 channels, got"),
])
def test_bad_input(change, text):
    with pytest.raises(ValueError, match=text):
        combine("two", inputs("two") | change)


def test_bad_groups():
    with pytest.raises(ValueError, match="6 channels do not divide into groups=4"):
        combine("two", inputs("two"), groups=4)
    with pytest.raises(ValueError, match="a map of 1x1 in 6 groups leaves a group one number"):
        combine("pixel", inputs("pixel", b=1), groups=6)


# ------------------------------------------------------------------ the kernels
def gradients(outs):
    """Around one: a sum that cancels to nothing would be held to the rounding of nothing."""
    return [torch.randn_like(out) + 1 for out in outs]


def compare(case, leaves, dtype, **kwargs):
    with fastdet.backend("torch"):
        given = gradients(combine(case, leaves, **kwargs))
        torchs = run(case, leaves, given, **kwargs)
        truth = run(case, {k: v.detach().double().requires_grad_() for k, v in leaves.items()},
                    given, **kwargs)
    got = run(case, leaves, given, **kwargs)
    for name, mine in got.items():
        if torchs[name] is None:
            assert mine is None, name
        else:
            assert mine.dtype == torchs[name].dtype
            assert_accurate(name, mine, torchs[name], truth[name], dtype)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("case", "dtype"), [
    *((case, torch.float32) for case in CASES if case != "two"), ("two", torch.float16),
    ("two", torch.bfloat16)])
def test_kernel(kernel_device, case, dtype):
    # Eight channels: of a pixel's two in a group the norm would leave nothing but the signs.
    compare(case, inputs(case, b=1 if case == "odd" else 2, c=8, dtype=dtype, device=kernel_device),
            dtype)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
def test_kernel_of_channels_that_fill_no_power_of_two(kernel_device):
    compare("pixel", inputs("pixel", dtype=torch.float32, device=kernel_device), torch.float32)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
def test_kernel_over_several_blocks(kernel_device, monkeypatch):
    monkeypatch.setattr(op_module, "TILE", {"BLOCK_P": 16, "BLOCK_C": 2, "num_warps": 4})
    monkeypatch.setattr(op_module, "MERGE", {"BLOCK_T": 2, "BLOCK_C": 2, "num_warps": 4})
    monkeypatch.setattr(op_module, "LAYER", {"BLOCK_J": 2, "BLOCK_D": 2, "num_warps": 4})
    monkeypatch.setattr(op_module, "OUTER", {"BLOCK_M": 2, "BLOCK_N": 2, "num_warps": 4})
    monkeypatch.setattr(op_module, "_plan", op_module._plan.__wrapped__)
    compare("two", inputs("two", b=1, c=4, device=kernel_device, dtype=torch.float32),
            torch.float32)


@pytest.mark.kernel
@pytest.mark.parametrize(("act", "bias"), [
    (Act(1.0, 2.0), 1.0), (Act(-9.0, 6.0), 1.0), (Act(9.0, 6.0), 1.0), (Act(1.0, 2.0), -99.0)])
def test_kernel_activation(kernel_device, act, bias):
    """A weight between the clamps, at the lower and at the upper one; ReLU closed by the bias."""
    leaves = inputs("rows", b=1, c=8, device=kernel_device, dtype=torch.float32)
    with torch.no_grad():
        leaves["attention0"].mul_(0.01)
        leaves["attention1"].fill_(bias)
    compare("rows", leaves, torch.float32, scale_act=act, relu_act=act)


@pytest.mark.kernel
def test_kernel_with_a_large_mean(kernel_device):
    compare("rows", inputs("rows", b=1, c=2, device=kernel_device, dtype=torch.float32,
                           mean=1000.0), torch.float32)


@pytest.mark.kernel
def test_kernel_in_either_order(kernel_device):
    leaves = inputs("two", b=1, c=2, device=kernel_device, dtype=torch.float32)
    outs = combine("two", leaves)
    want = torch.autograd.grad(sum(t.sum() for t in outs), list(leaves.values()))  # expanded
    last = [torch.ones_like(t).contiguous(memory_format=torch.channels_last) for t in outs]
    got = run("two", leaves, last, channels_last=True)
    assert got["out 0"].is_contiguous(memory_format=torch.channels_last)
    for i, out in enumerate(outs):
        torch.testing.assert_close(got[f"out {i}"], out)
    for grad, name in zip(want, leaves):
        torch.testing.assert_close(got[f"d {name}"], grad, msg=name)


@pytest.mark.kernel
def test_kernel_with_one_level_alone(kernel_device):
    leaves = inputs("two", b=1, c=2, device=kernel_device, dtype=torch.float32)
    given = [torch.randn_like(t) for t in combine("two", leaves)]
    whole = run("two", leaves, given)
    for name in ("maps", "excite1"):
        alone = {k: v if k == name else v.detach() for k, v in leaves.items()}
        outs = combine("two", alone)
        parts = [torch.autograd.grad(t, leaves[name], g, retain_graph=True)[0]
                 for t, g in zip(outs, given)]
        torch.testing.assert_close(sum(parts), whole[f"d {name}"])


@pytest.mark.kernel
def test_kernel_is_deterministic(kernel_device):
    leaves = inputs("rows", b=1, c=2, device=kernel_device, dtype=torch.float32)
    given = [torch.ones(1, 2, *size, device=kernel_device) for size in CASES["rows"]]
    first, second = (run("rows", leaves, given) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.kernel
def test_kernel_of_no_images(kernel_device):
    leaves = inputs("two", b=0, device=kernel_device, dtype=torch.float32)
    got = run("two", leaves, [torch.ones(0, 6, *size, device=kernel_device)
                              for size in CASES["two"]])
    assert all(not got[f"d {name}"].any() for name in leaves)


@pytest.mark.kernel
def test_autocast_gives_float32(kernel_device):
    leaves = inputs("two", b=1, c=8, device=kernel_device, dtype=torch.bfloat16,
                    parameters=torch.float32)
    with torch.autocast(kernel_device.type, dtype=torch.bfloat16):
        got = combine("two", leaves)
        with fastdet.backend("torch"):
            want = combine("two", leaves)
    for mine, theirs in zip(got, want):
        assert mine.dtype == theirs.dtype == torch.float32
        torch.testing.assert_close(mine, theirs)
    given = gradients(got)
    grads, wanted = (torch.autograd.grad(outs, list(leaves.values()), given)
                     for outs in (got, want))
    for name, mine, theirs in zip(leaves, grads, wanted):
        assert mine.dtype == leaves[name].dtype
        least = theirs.abs().max().item() * torch.finfo(mine.dtype).eps * 4
        torch.testing.assert_close(mine, theirs, rtol=0, atol=least)


@pytest.mark.kernel
def test_kernel_refuses_what_it_cannot(kernel_device):
    with pytest.raises(fastdet.BackendError, match="not float64"):
        combine("two", inputs("two", device=kernel_device))
    leaves = inputs("alone", b=1, c=4098, dtype=torch.float32, device=kernel_device)
    with pytest.raises(fastdet.BackendError, match="hold up to 4096 channels, not 4098"):
        combine("alone", leaves)
    maps, nothing = torch.zeros(24, 4), torch.zeros(0)
    reason = op_module.can_run_dyhead_attention(
        Convolved(maps, nothing, Pyramid(2, CASES["alone"]), 0), 2)
    assert "left no moments of their maps" in reason


@pytest.mark.kernel
def test_opcheck(kernel_device):
    case = "pixel"
    leaves = inputs(case, b=2, c=2, dtype=torch.float32, device=kernel_device)
    sizes = [2, *(n for size in CASES[case] for n in size)]
    stats = moments_of_tiles(leaves["maps"], 2, CASES[case], TILE)
    maps, *parameters = leaves.values()
    act = [3.0, 6.0, 0.0, 1.0]
    torch.library.opcheck(op_module._forward.traced, (
        maps, stats, *parameters, sizes, TILE, 2, 1e-5, act, act, False, torch.float32))
