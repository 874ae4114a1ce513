"""The convolutions of a DyHead block: the reference by single convolutions, the kernels by it."""

import pytest
import torch

import fastdet
from fastdet.kernels.common import DTYPES
from fastdet.kernels.deform_conv2d import deform_conv2d
from fastdet.kernels.dyhead_convs import (
    can_run_dyhead_convs,
    channels_last_maps,
    convolutions,
    dyhead_convs,
)
from fastdet.kernels.dyhead_convs import op as op_module
from fastdet.kernels.dyhead_convs.reference import moments_of_tiles
from fastdet.testing import assert_accurate

#: Sizes of the levels: odd ones, a single one, down to a pixel, and more tiles than one.
CASES = {
    "odd": [(5, 3), (3, 2)],
    "one": [(3, 4)],
    "pixel": [(3, 1), (2, 1), (1, 1)],
    "tiles": [(9, 8), (5, 4)],
}
WEIGHTS = ("mid", "low", "high")


def inputs(sizes, b=1, c=5, o=7, dtype=torch.float64, device="cpu"):
    """Leaves by name; no place lies near a pixel, where the gradient jumps."""
    out = {}
    for i, (h, w) in enumerate(sizes):
        out[f"x{i}"] = torch.randn(b, c, h, w, dtype=torch.float64)
        offset = torch.randint(-2, 2, (b, 18, h, w)) + 0.2 + 0.6 * torch.rand(b, 18, h, w)
        out[f"numbers{i}"] = torch.cat([offset, torch.randn(b, 9, h, w)], 1)
    out |= {name: torch.randn(o, c, 3, 3, dtype=torch.float64) / 7 for name in WEIGHTS}
    return {k: t.to(device, dtype).requires_grad_() for k, t in out.items()}


def call(leaves):
    levels = range(sum(name.startswith("x") for name in leaves))
    return dyhead_convs([leaves[f"x{i}"] for i in levels], [leaves[f"numbers{i}"] for i in levels],
                        [leaves[name] for name in WEIGHTS])


def run(leaves, grad):
    convolved = call(leaves)
    grads = torch.autograd.grad(convolved.maps, list(leaves.values()),
                                grad.to(convolved.maps), allow_unused=True)
    return {"maps": convolved.maps, **{f"d {k}": g for k, g in zip(leaves, grads)}}


def test_reference_is_convolution_after_convolution():
    sizes = [(3, 5), (2, 3), (1, 2), (1, 1)]
    leaves = inputs(sizes, b=2)
    rows = call(leaves).maps.split(
        [2 * sizes[grid][0] * sizes[grid][1] for *_, grid in convolutions(len(sizes))])
    for (branch, source, level, grid), got in zip(convolutions(4), rows, strict=True):
        h, w = sizes[grid]
        numbers = leaves[f"numbers{level}"]
        offset = numbers[:, :18].flatten(1)[:, :18 * h * w].view(2, 18, h, w)
        mask = numbers[:, 18:].flatten(1)[:, :9 * h * w].view(2, 9, h, w).sigmoid()
        want = deform_conv2d(leaves[f"x{source}"], offset, leaves[WEIGHTS[branch]], mask=mask,
                             stride=(1 + (branch == 1),) * 2, padding=(1, 1))
        torch.testing.assert_close(got.view(2, h, w, 7).permute(0, 3, 1, 2), want)


def test_reference_gradcheck():
    leaves = inputs([(2, 3), (1, 2)], c=2, o=2)
    names = list(leaves)
    assert torch.autograd.gradcheck(lambda *t: call(dict(zip(names, t))).maps,
                                    list(leaves.values()))


@pytest.mark.parametrize(("change", "text"), [
    ({"x1": torch.zeros(1, 5, 3, 3)}, r"level 1 must be half of level 0 \[5, 3\] rounded up, got"),
    ({"x1": torch.zeros(1, 4, 3, 2)}, r"level 1 must be .* of the first, \[1, 5\] on cpu, got"),
    ({"numbers0": torch.zeros(1, 18, 5, 3)}, r"numbers of level 0 must be \[1, 27, 5, 3\]"),
    ({"low": torch.zeros(7, 5, 1, 1)}, r"weights must be three \[O, 5, 3, 3\]"),
])
def test_bad_input(change, text):
    with pytest.raises(ValueError, match=text):
        call(inputs(CASES["odd"]) | change)


def test_no_levels():
    with pytest.raises(ValueError, match="at least one, and three weights, got 0, 0 and 2"):
        dyhead_convs([], [], [torch.zeros(1)] * 2)


def test_what_the_kernels_refuse():
    x = [torch.zeros(1, 4, 1, 1)] * 6
    assert "up to 5 levels, not 6" in can_run_dyhead_convs(x, x, 4)
    assert "not float64" in can_run_dyhead_convs([x[0].double()], [], 4)
    wide = torch.empty(1, 1, 1, 40000, device="meta")
    assert "up to 32767 pixels along a side, not 40000" in can_run_dyhead_convs([wide], [], 4)
    large = torch.empty(1, 2**14, 2**9, 2**5, device="meta")
    assert "32 bits" in can_run_dyhead_convs([large], [], 4)


def test_programs_of_a_branch_are_in_proportion_to_its_tiles():
    pyramid = op_module.Pyramid(2, ((100, 168), (50, 84), (25, 42), (13, 21), (7, 11)))
    assert pyramid.tiles(64) == 353
    assert pyramid.all_tiles(64) == 533
    assert op_module._splits(pyramid, 64, 36, 132) == (5, 1)
    assert op_module._splits(op_module.Pyramid(1, ((3, 4),)), 64, 36, 132) == (1, 0)
    assert op_module._splits(op_module.Pyramid(1, ((3, 4), (2, 2))), 64, 36, 1) == (1, 1)


# ------------------------------------------------------------------ the kernels
def compare(leaves, dtype):
    grad = torch.randn_like(call(leaves).maps)
    got = run(leaves, grad)
    with fastdet.backend("torch"):
        torchs = run(leaves, grad)
        truth = run({k: v.detach().double().requires_grad_() for k, v in leaves.items()}, grad)
    for name, mine in got.items():
        if torchs[name] is None:
            assert mine is None, name
        else:
            assert mine.dtype == torchs[name].dtype
            assert_accurate(name, mine, torchs[name], truth[name], dtype)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("case", "dtype"), [
    ("one", torch.float32), ("pixel", torch.float32), *(("odd", dtype) for dtype in DTYPES)])
def test_kernels_are_accurate(kernel_device, case, dtype, monkeypatch):
    monkeypatch.setattr(op_module, "WEIGHT_TILE", {"BLOCK_O": 4, "BLOCK_Q": 32, "num_warps": 4})
    for plan in ("_forward_plan", "_backward_plan"):
        monkeypatch.setattr(op_module, plan, getattr(op_module, plan).__wrapped__)
    compare(inputs(CASES[case], b=2 if case == "one" else 1, dtype=dtype, device=kernel_device),
            dtype)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
def test_moments_of_tiles(kernel_device):
    """Also far from zero, where the sum of squares would have no digits left."""
    leaves = inputs(CASES["tiles"], b=2, o=3, dtype=torch.float32, device=kernel_device)
    with torch.no_grad():
        leaves["mid"].fill_(100.0)
    maps, stats, pyramid, tile = call(leaves)
    want = moments_of_tiles(maps, *pyramid, tile)
    torch.testing.assert_close(stats, want, rtol=1e-4, atol=1e-3)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
def test_numbers_in_any_order(kernel_device):
    leaves = inputs(CASES["odd"], dtype=torch.float32, device=kernel_device)
    grad = torch.randn_like(call(leaves).maps)
    want = run(leaves, grad)
    got = run({k: v.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
               if k.startswith("numbers") else v for k, v in leaves.items()}, grad)
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=name)


@pytest.mark.kernel
def test_gradients_on_their_own(kernel_device):
    leaves = inputs([(2, 1), (1, 1)], dtype=torch.float32, device=kernel_device)
    grad = torch.randn_like(call(leaves).maps)
    want = run(leaves, grad)
    for name in ("x1", "low"):
        alone = {k: v if k == name else v.detach() for k, v in leaves.items()}
        got, = torch.autograd.grad(call(alone).maps, leaves[name], grad)
        torch.testing.assert_close(got, want[f"d {name}"])


@pytest.mark.kernel
def test_deterministic_gradient(kernel_device):
    leaves = inputs([(2, 2), (1, 1)], dtype=torch.float32, device=kernel_device)
    grad = torch.randn_like(call(leaves).maps)
    want = run(leaves, grad)
    torch.use_deterministic_algorithms(True)
    try:
        got = run(leaves, grad)
        infinite = run(leaves, torch.full_like(grad, torch.inf))
    finally:
        torch.use_deterministic_algorithms(False)
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=name)
    assert not infinite["d x0"].isfinite().any()


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
def test_no_images(kernel_device):
    leaves = inputs(CASES["odd"], b=0, dtype=torch.float32, device=kernel_device)
    got = run(leaves, torch.zeros(0, 7, device=kernel_device))
    assert got["maps"].shape == (0, 7)
    assert not any(got[f"d {name}"].any() for name in leaves)


@pytest.mark.kernel
def test_maps_under_autocast(kernel_device):
    """Channels last and of the type of autocast, and the gradient in the maps' own order."""
    leaves = inputs([(5, 9), (3, 5)], b=2, dtype=torch.float32, device=kernel_device)
    x = [leaves["x0"], leaves["x1"]]
    with torch.autocast(kernel_device.type, dtype=torch.bfloat16):
        got = channels_last_maps(x)
    for mine, its in zip(got, x):
        assert torch.equal(mine, its.bfloat16())
        assert mine.is_contiguous(memory_format=torch.channels_last)
    given = [torch.randn_like(mine) for mine in got]
    for grad, want, its in zip(torch.autograd.grad(got, x, given), given, x):
        assert torch.equal(grad, want.float())
        assert grad.stride() == its.stride()
    ready = [t.contiguous(memory_format=torch.channels_last) for t in x]
    assert all(mine is its for mine, its in zip(channels_last_maps(ready), ready))
    with fastdet.backend("torch"):
        assert all(mine is its for mine, its in zip(channels_last_maps(x), x))


@pytest.mark.kernel
def test_opcheck(kernel_device):
    # A level that is alone has one convolution, two have four.
    leaves = inputs([(1, 2)], c=3, o=4, dtype=torch.float32, device=kernel_device)
    none = (None,) * 4
    maps, numbers = (leaves["x0"], *none), (leaves["numbers0"], *none)
    weights = [leaves[name] for name in WEIGHTS]
    torch.library.opcheck(op_module._maps.traced, (*maps, torch.bfloat16, True))
    torch.library.opcheck(op_module._forward.traced, (*maps, *numbers, *weights))
    detached = [None if t is None else t.detach() for t in (*maps, *numbers)]
    dmaps = torch.randn_like(call(leaves).maps)
    packed = torch.randn(3, 9, 3, 4, device=kernel_device)
    for needs in ((True, True), (False, True)):
        torch.library.opcheck(op_module._backward.traced, (
            dmaps, *detached, packed, *needs, torch.float32))
