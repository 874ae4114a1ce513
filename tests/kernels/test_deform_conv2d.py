"""Deformable convolution: the reference by loops and plain convolutions, the kernels by it."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import fastdet
from fastdet.kernels.common import DTYPES
from fastdet.kernels.deform_conv2d import can_run_deform_conv2d, cpu, deform_conv2d, reference
from fastdet.kernels.deform_conv2d import op as op_module
from fastdet.testing import assert_accurate

NAMES = ("out", "x", "offset", "weight", "mask", "bias")


class Case:
    """Arguments of one call; offsets reach past the border, some by far."""

    def __init__(self, B=2, C=6, H=5, W=7, O=4, kernel=(3, 2), stride=(1, 1), padding=(1, 1),  # noqa: E741
                 dilation=(1, 1), groups=1, deform_groups=1, mask=True, bias=True,
                 dtype=torch.float64, device="cpu", spread=1.5):
        self.kwargs = dict(stride=stride, padding=padding, dilation=dilation, groups=groups,
                           deform_groups=deform_groups)
        size = reference.output_size((H, W), kernel, stride, padding, dilation)
        taps = deform_groups * math.prod(kernel)

        def draw(seed, *shape):
            g = torch.Generator().manual_seed(seed)
            return torch.randn(*shape, generator=g, dtype=torch.float64)

        tensors = (draw(1, B, C, H, W), draw(2, B, 2 * taps, *size) * spread,
                   draw(3, O, C // groups, *kernel) / math.sqrt(C // groups * math.prod(kernel)),
                   draw(4, B, taps, *size).sigmoid() if mask else None,
                   draw(5, O) if bias else None)
        self.tensors = [None if t is None else t.to(device, dtype) for t in tensors]

    def to(self, dtype):
        other = object.__new__(Case)
        other.kwargs = self.kwargs
        other.tensors = [None if t is None else t.to(dtype) for t in self.tensors]
        return other

    def leaves(self, needed=NAMES[1:]):
        return [None if t is None else t.detach().clone(memory_format=torch.preserve_format)
                .requires_grad_(name in needed) for name, t in zip(NAMES[1:], self.tensors)]

    def call(self, tensors=None):
        x, offset, weight, mask, bias = self.tensors if tensors is None else tensors
        return deform_conv2d(x, offset, weight, mask=mask, bias=bias, **self.kwargs)

    def run(self, needed=NAMES[1:]):
        """Result and gradients by name."""
        leaves = self.leaves(needed)
        out = self.call(leaves)
        cotangent = torch.randn(out.shape, generator=torch.Generator().manual_seed(5))
        out.backward(cotangent.to(out))
        grads = {n: t.grad for n, t in zip(NAMES[1:], leaves) if t is not None and n in needed}
        return {"out": out, **grads}


def on_torch(case, **kwargs):
    with fastdet.backend("torch"):
        return case.run(**kwargs)


def by_definition(case):
    """The case, computed by the reference."""
    def call(tensors=None):
        x, offset, weight, mask, bias = case.tensors if tensors is None else tensors
        return reference.deform_conv2d_reference(x, offset, mask, weight, bias, **case.kwargs)

    other = case.to(torch.float64)
    other.call = call
    return other


# ------------------------------------------------------------------ the reference
def bilinear(image, y, x):
    """A channel's value between its pixels; zero outside."""
    H, W = image.shape
    if not (-1 < y < H and -1 < x < W):
        return 0.0
    total = 0.0
    for i in (math.floor(y), math.floor(y) + 1):
        for j in (math.floor(x), math.floor(x) + 1):
            if 0 <= i < H and 0 <= j < W:
                total += (1 - abs(y - i)) * (1 - abs(x - j)) * float(image[i, j])
    return total


def by_loops(x, offset, weight, mask, bias, stride, padding, dilation, groups, deform_groups):
    (B, C, _, _), (O, cg, kh, kw) = x.shape, weight.shape  # noqa: E741
    out = torch.zeros(B, O, *offset.shape[2:], dtype=torch.float64)
    for b, o, r, s in product(*map(range, out.shape)):
        value = 0.0 if bias is None else float(bias[o])
        for c, i, j in product(range(cg), range(kh), range(kw)):
            channel = o // (O // groups) * cg + c
            tap = channel // (C // deform_groups) * kh * kw + i * kw + j
            y = r * stride[0] - padding[0] + i * dilation[0] + float(offset[b, 2 * tap, r, s])
            z = s * stride[1] - padding[1] + j * dilation[1] + float(offset[b, 2 * tap + 1, r, s])
            m = 1.0 if mask is None else float(mask[b, tap, r, s])
            value += float(weight[o, c, i, j]) * m * bilinear(x[b, channel], y, z)
        out[b, o, r, s] = value
    return out


@pytest.mark.parametrize("given_", [
    dict(mask=False, bias=False), dict(stride=(2, 1), padding=(0, 2), dilation=(1, 3)),
    dict(groups=2, deform_groups=3), dict(C=4, groups=4, deform_groups=2, spread=8)])
def test_reference_is_the_loop(given_):
    case = Case(B=1, H=4, W=6, **given_)
    torch.testing.assert_close(by_definition(case).call(), by_loops(*case.tensors, **case.kwargs))


@pytest.mark.parametrize("given_", [
    dict(mask=False, bias=False, B=3), dict(stride=(2, 1), padding=(0, 2), dilation=(1, 3)),
    dict(groups=2, deform_groups=3), dict(C=4, groups=4, deform_groups=2, spread=8)])
def test_the_cpu_path_is_the_definition(given_):
    case = Case(**given_)
    got, want = case.run(), by_definition(case).run()
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=name)


@pytest.mark.parametrize("given_", [
    dict(mask=False, bias=False), dict(groups=2, deform_groups=3, stride=(2, 1), dilation=(1, 2)),
    dict(C=4, groups=4, deform_groups=2)])
def test_gradcheck(given_):
    case = Case(B=1, H=3, W=3, kernel=(2, 2), **given_)
    leaves = [t for t in case.leaves() if t is not None]

    def call(*tensors):
        rest = iter(tensors)
        return case.call([None if t is None else next(rest) for t in case.tensors])

    assert torch.autograd.gradcheck(call, leaves)


@pytest.mark.parametrize("given_", [
    dict(), dict(stride=(2, 3), dilation=(2, 1), groups=2), dict(H=1, W=2, padding=(3, 1))])
def test_zero_offsets_are_a_convolution(given_):
    case = Case(mask=False, **given_)
    case.tensors[1] = torch.zeros_like(case.tensors[1])
    x, _, weight, _, bias = leaves = case.leaves()
    k = case.kwargs
    out = case.call(leaves)
    want = F.conv2d(x, weight, bias, k["stride"], k["padding"], k["dilation"], k["groups"])
    torch.testing.assert_close(out, want)
    used = [x, weight, bias]
    for a, b in zip(torch.autograd.grad(out.square().sum(), used),
                    torch.autograd.grad(want.square().sum(), used)):
        torch.testing.assert_close(a, b)


@given(st.integers(-6, 6), st.integers(-6, 6))
def test_integer_offsets_shift_the_image(dy, dx):
    case = Case(B=1, mask=False, bias=False)
    x, offset, weight, _, _ = case.tensors
    case.tensors[1] = torch.tensor([dy, dx], dtype=x.dtype).repeat(offset.shape[1] // 2) \
        .view(1, -1, 1, 1).expand_as(offset)
    shifted = F.pad(x, (7, 7, 7, 7))[:, :, 7 + dy - 1:, 7 + dx - 1:][:, :, :7, :9]
    torch.testing.assert_close(case.call(), F.conv2d(shifted, weight))


@given(st.floats(0, 1), st.floats(0, 1))
def test_fractions_blend_four_shifts(fy, fx):
    case = Case(B=1, mask=False, bias=False)
    offset = case.tensors[1]

    def shifted(dy, dx):
        case.tensors[1] = torch.tensor([dy, dx], dtype=offset.dtype).repeat(
            offset.shape[1] // 2).view(1, -1, 1, 1).expand_as(offset)
        return case.call()

    blend = ((1 - fy) * ((1 - fx) * shifted(0, 0) + fx * shifted(0, 1))
             + fy * ((1 - fx) * shifted(1, 0) + fx * shifted(1, 1)))
    torch.testing.assert_close(shifted(fy, fx), blend)


def test_mask_of_ones_is_v1():
    with_mask, without = Case(), Case(mask=False)
    with_mask.tensors[3] = torch.ones_like(with_mask.tensors[3])
    got, want = with_mask.run(), without.run()
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=name)


def test_deform_groups_that_agree_are_one():
    one, three = Case(), Case(deform_groups=3)
    three.tensors[1] = one.tensors[1].repeat(1, 3, 1, 1)
    three.tensors[3] = one.tensors[3].repeat(1, 3, 1, 1)
    torch.testing.assert_close(three.call(), one.call())


def test_groups_are_convolutions_side_by_side():
    case = Case(groups=2)
    x, offset, weight, mask, bias = case.tensors
    parts = [deform_conv2d(a, offset, w, mask=mask, bias=b, padding=(1, 1))
             for a, w, b in zip(x.chunk(2, 1), weight.chunk(2), bias.chunk(2))]
    torch.testing.assert_close(case.call(), torch.cat(parts, 1))


def border_case(place, device="cpu", dtype=torch.float64):
    """One pixel's sample at ``place`` (y, x) of a 2 x 3 image, and what depends on it."""
    x = torch.tensor([[[[1.0, 2, 3], [4, 5, 6]]]], dtype=dtype, device=device).requires_grad_()
    offset = torch.zeros(1, 2, 2, 3, dtype=dtype, device=device)
    offset[0, :, 0, 0] = torch.tensor(place, dtype=dtype)
    offset.requires_grad_()
    weight = torch.ones(1, 1, 1, 1, dtype=dtype, device=device)
    out = deform_conv2d(x, offset, weight, mask=torch.ones_like(offset[:, :1]))[0, 0, 0, 0]
    grads = torch.autograd.grad(out, (x, offset))
    return float(out.detach()), grads[0][0, 0], grads[1][0, :, 0, 0].tolist()


BORDER = [
    ((-1.0, 1.0), 0.0, [0.0, 0.0]), ((1.0, -1.0), 0.0, [0.0, 0.0]),  # not counted, no gradient
    ((2.0, 1.0), 0.0, [0.0, 0.0]), ((1.0, 3.0), 0.0, [0.0, 0.0]),
    ((-0.5, 1.0), 1.0, [2.0, 0.5]), ((1.5, 0.0), 2.0, [-4.0, 0.5]),  # half a pixel away
    ((0.0, 0.0), 1.0, [3.0, 1.0]), ((1.0, 2.0), 6.0, [-6.0, -6.0]),  # the side that floor chooses
    ((float("nan"), 0.0), 0.0, [0.0, 0.0]), ((0.0, 1e30), 0.0, [0.0, 0.0])]


@pytest.mark.parametrize(("place", "value", "slopes"), BORDER)
def test_borders(place, value, slopes):
    got, dx, doffset = border_case(place)
    assert got == value
    assert doffset == slopes
    if value == 0:
        assert not dx.any()


def test_what_lies_outside_does_not_leak():
    case = Case(B=1, mask=False, bias=False)
    case.tensors[0] = torch.full_like(case.tensors[0], math.inf)
    case.tensors[1] = torch.full_like(case.tensors[1], 50.0)
    assert not case.call().any()


def test_offsets_of_a_finer_map_are_read_from_the_beginning():
    """DyHead: mmcv reads the numbers by address."""
    small, large = Case(), Case(H=9, W=12)
    large.tensors[0] = small.tensors[0]
    got = large.run()
    size = small.tensors[1].shape[2:]
    for i in (1, 3):
        channels = large.tensors[i].shape[1]
        flat = large.tensors[i].flatten(1)[:, :channels * size[0] * size[1]]
        small.tensors[i] = flat.reshape(2, channels, *size)
    want = small.run()
    for name in ("out", "x", "weight", "bias"):
        torch.testing.assert_close(got[name], want[name], msg=name)
    for name in ("offset", "mask"):
        grad, part = got[name].flatten(1), want[name].flatten(1)
        torch.testing.assert_close(grad[:, :part.shape[1]], part)
        assert not grad[:, part.shape[1]:].any()


@pytest.mark.parametrize("columns", [60, 400])
def test_parts_make_the_whole(monkeypatch, columns):
    case = Case(groups=2, deform_groups=3)
    want = case.run()
    monkeypatch.setattr(cpu, "COLUMNS", columns)
    got = case.run()
    for name in want:
        torch.testing.assert_close(got[name], want[name], msg=name)


@pytest.mark.parametrize("mask", [False, True])
def test_empty_batch(mask):
    got = Case(B=0, mask=mask).run()
    assert got["out"].shape == (0, 4, 5, 8)
    assert not got["weight"].any()


def test_memory_format_follows_the_input():
    case = Case()
    assert case.call().is_contiguous()
    case.tensors[0] = case.tensors[0].contiguous(memory_format=torch.channels_last)
    assert case.call().is_contiguous(memory_format=torch.channels_last)


def test_types_follow_the_offset():
    case = Case(dtype=torch.float32)
    case.tensors[1] = case.tensors[1].to(torch.bfloat16)
    out = case.call()
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, case.to(torch.bfloat16).call())


def test_autocast_leaves_float32_offsets_alone():
    case = Case(dtype=torch.float32)
    want = case.call()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(case.call(), want)


def test_compiles_with_changing_sizes():
    torch._dynamo.reset()
    compiled = torch.compile(deform_conv2d, fullgraph=True, dynamic=True, backend="aot_eager")
    for H, W in ((5, 7), (6, 9), (8, 5)):
        case = Case(B=1, H=H, W=W)
        x, offset, weight, mask, bias = leaves = case.leaves()
        out = compiled(x, offset, weight, mask=mask, bias=bias, **case.kwargs)
        torch.testing.assert_close(out, case.call())
        out.square().sum().backward()
        assert all(t.grad is not None for t in leaves)


@pytest.mark.parametrize(("change", "text"), [
    (dict(x=torch.zeros(2, 6, 5)), r"expected a 4D input, got 3D \[2, 6, 5\]"),
    (dict(weight=torch.zeros(4, 5, 3, 2)), r"weight must be \[4, 6, kH, kW\] for 6 channels in 1"),
    (dict(groups=4), "the 6 channels of the input must be a multiple of groups=4"),
    (dict(deform_groups=5), "the 6 channels of the input must be a multiple of deform_groups=5"),
    (dict(stride=(0, 1)), r"stride must be two numbers of at least 1, got \(0, 1\)"),
    (dict(bias=torch.zeros(3)), r"bias must be \[4\], got \[3\]"),
    (dict(offset=torch.zeros(2, 10, 5, 8)), r"offset must be \[2, 12, 5, 8\], got \[2, 10, 5, 8\]"),
    (dict(offset=torch.zeros(2, 12, 4, 9)), r"offset must be \[2, 12, 5, 8\], got \[2, 12, 4, 9\]"),
    (dict(offset=torch.zeros(2, 12, 6, 9), mask=None), r"offset must be \[2, 12, 5, 8\], got "),
    (dict(offset=torch.zeros(2, 12, 6, 9)), "offset and mask must have one height and width"),
    (dict(mask=torch.zeros(2, 6, 5, 7)), r"mask must be \[2, 6, 5, 8\], got \[2, 6, 5, 7\]"),
    (dict(mask=torch.zeros(2, 6, 5, 8, dtype=torch.int64)), "mask must be floating-point on cpu"),
    (dict(x=torch.zeros(2, 6, 1, 1), padding=(0, 0)), "too small .output would be 2x4x-1x0."),
])
def test_bad_input(change, text):
    case = Case(dtype=torch.float32)
    args = dict(zip(NAMES[1:], case.tensors)) | case.kwargs | change
    with pytest.raises(ValueError, match=text):
        deform_conv2d(**args)


def test_every_config_is_one_a_kernel_takes():
    kinds = ("fwd", "bwd_data", "bwd_weight", "depthwise_fwd", "depthwise_bwd")
    widths = (1, 3, 16, 48, 64, 200, 2048)
    for kind, run, og, dtype in product(kinds, widths, widths, DTYPES):
        config = op_module.tile_config(kind, run, og, dtype)
        blocks = (config.block_p, config.block_c, *(() if "depth" in kind else (config.block_o,)))
        least = 1 if "depth" in kind else 16
        assert all(b >= least and b & (b - 1) == 0 for b in blocks), (kind, run, og, config)
        assert config.num_warps in (4, 8)


def test_tiles_and_splits_fill_whole_waves():
    def fitted(B, H, W):
        shape = op_module._shape((B, 256, H, W), (B, 18, H, W), (256, 256, 3, 3), 1, 1)
        config = op_module.tile_config("fwd", 256, 256, torch.bfloat16)
        return op_module._fitted(config, shape, 1, 132).block_p

    assert fitted(2, 100, 168) == 64  # 526 tiles, 3.98 waves
    assert fitted(2, 50, 84) == 64  # 132 tiles, one wave
    assert fitted(2, 25, 42) == 32  # 34 tiles of 64 would leave three quarters of them empty
    assert op_module._splits(132, 36, 132) == 7  # 252 programs; with 288 a third wave of 24
    assert op_module._splits(132, 36, 264) == 7  # one wave
    assert op_module._splits(132, 144, 132) == 3  # 432 of 528; with one part 12 in the second
    assert op_module._splits(1, 36, 132) == 1


# ------------------------------------------------------------------ the kernels
CASES = {
    "v1": dict(mask=False, bias=False, kernel=(1, 2)),
    "v2": dict(B=1, H=17, C=20, O=12, kernel=(2, 2), stride=(2, 1), dilation=(1, 2)),
    "wide": dict(B=1, C=80, O=136, H=3, W=3, kernel=(1, 2)),
    "groups": dict(B=1, C=72, O=80, H=3, W=3, kernel=(1, 2), groups=2, deform_groups=4),
    "packed": dict(B=1, C=24, O=48, H=3, groups=12, deform_groups=2, kernel=(2, 1)),
    "depthwise": dict(C=6, O=6, H=4, groups=6, deform_groups=2, kernel=(2, 1), spread=4),
}


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_kernels_are_accurate(kernel_device, name, dtype):
    case = Case(**CASES[name], dtype=dtype, device=kernel_device)
    got, run, truth = case.run(), on_torch(case), on_torch(case.to(torch.float64))
    for what in truth:
        assert_accurate(what, got[what], run[what], truth[what], dtype)


def test_sizes_share_what_is_compiled():
    pytest.importorskip("triton")
    plans = [op_module._plan_forward(
        torch.Size((2, 64, n, n)), torch.Size((2, 18, n, n)), torch.Size((64, 64, 3, 3)), (1,) * 6,
        1, 1, torch.float32, "ieee", 132, (1, 0), has_mask=False, has_bias=True, last=False)
        for n in (8, 80)]
    assert plans[0].run.grid < plans[1].run.grid
    assert plans[0].run.options is plans[1].run.options


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("C", "O", "groups", "H", "size"), [
    (24, 36, 12, 4, (6, 24, 36)), (96, 72, 6, 3, (6, 48, 72)), (10, 130, 1, 1, (6, 10, 130)),
    (5, 5, 5, 4, (6, 1, 5))])
def test_packing_is_undone(kernel_device, C, O, groups, H, size):  # noqa: E741
    """A weight of packed groups, and maps, from the caller's order to the kernels' and back."""
    x, offset, weight, _, _ = Case(C=C, O=O, groups=groups, H=H, W=8, dtype=torch.bfloat16,
                                   device=kernel_device).tensors
    shape = op_module._shape(x.shape, offset.shape, weight.shape, groups, 1)
    maps, packed = op_module._prepare(x, weight, shape)
    assert maps.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(maps, x)
    assert packed.shape == size
    width = C // groups
    for o in range(O):
        group = o // (O // groups) % shape.pack
        own = packed[:, group * width:(group + 1) * width, o]
        assert torch.equal(own, weight[o].flatten(1).T)
    assert packed.count_nonzero() == weight.count_nonzero()

    plan = op_module._plan_backward(
        x.shape, offset.shape, weight.shape, (1,) * 6, groups, 1, x.dtype, "ieee", 4, (1, 1),
        has_mask=True, needs_x=True, needs_place=False, needs_weight=True, fixed=False)
    parts = torch.stack([packed.float() * (i + 1) for i in range(
        1 if shape.depthwise else plan.partial[0])])
    dx, dweight = torch.empty_like(maps), torch.empty_like(weight)
    plan.finish(maps.float() / 3, dx, parts, dweight, device=kernel_device)
    assert torch.equal(dweight, weight * (len(parts) * (len(parts) + 1) // 2))
    assert torch.equal(dx, (maps.float() / 3).bfloat16())


@pytest.mark.kernel
@pytest.mark.parametrize(("place", "value", "slopes"), BORDER)
def test_kernel_borders(kernel_device, place, value, slopes):
    got, _, doffset = border_case(place, kernel_device, torch.float32)
    assert got == value
    assert doffset == slopes


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("name", ["v2", "depthwise"])
def test_kernel_gradients_on_their_own(kernel_device, name):
    case = Case(**CASES[name], dtype=torch.float32, device=kernel_device)
    want = case.run()
    for needed in (["x"], ["offset"], ["mask"], ["weight"], ["bias"], ["x", "weight"]):
        got = case.run(needed=needed)
        assert set(got) == {"out", *needed}
        for what in got:
            torch.testing.assert_close(got[what], want[what], msg=f"{what} of {needed}")


@pytest.mark.kernel
def test_kernel_memory_formats(kernel_device):
    case = Case(dtype=torch.float32, device=kernel_device)
    want = case.run()
    both = torch.cat([case.tensors[1], case.tensors[3]], 1)
    case.tensors[1], case.tensors[3] = both.tensor_split((12,), 1)  # images lie apart
    case.tensors[0] = case.tensors[0].contiguous(memory_format=torch.channels_last)
    case.tensors[2] = case.tensors[2].transpose(0, 1).contiguous().transpose(0, 1)
    out = case.call()
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, want["out"])
    wide = case.tensors[0].repeat_interleave(2, 3)[..., ::2]
    offset = case.tensors[1].transpose(2, 3).contiguous().transpose(2, 3)
    leaves = [wide.requires_grad_(), offset, *case.tensors[2:]]
    out = case.call(leaves)
    torch.testing.assert_close(out, want["out"])
    out.sum().backward()  # an expanded gradient
    with fastdet.backend("torch"):
        dx, = torch.autograd.grad(case.call(leaves).sum(), wide)
    torch.testing.assert_close(wide.grad, dx)


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("name", ["v2", "packed", "depthwise"])
def test_kernel_empty_batch(kernel_device, name):
    case = Case(**{**CASES[name], "B": 0}, dtype=torch.float32, device=kernel_device)
    got = case.run()
    assert got["out"].shape[0] == 0
    assert got["x"].shape == case.tensors[0].shape
    assert not got["weight"].any()


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.kernel
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("name", ["v1", "v2", "depthwise"])
def test_kernel_deterministic_gradient(kernel_device, name):
    case = Case(**CASES[name], dtype=torch.float32, device=kernel_device)
    got = case.run()
    assert torch.equal(got["x"], case.run()["x"])
    run, truth = on_torch(case), on_torch(case.to(torch.float64))
    assert_accurate("x", got["x"], run["x"], truth["x"], torch.float32)


@pytest.mark.kernel
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(("size", "finite"), [(0.0, True), (1e-30, True), (1e30, True),
                                              (math.inf, False), (math.nan, False)])
def test_kernel_deterministic_gradient_of_any_size(kernel_device, size, finite):
    case = Case(bias=False, dtype=torch.float32, device=kernel_device)
    leaves = case.leaves(["x"])
    out = case.call(leaves)
    grad = torch.ones_like(out)
    case.call(leaves).backward(grad)
    want = leaves[0].grad.clone()
    leaves[0].grad = None
    out.backward(grad * size)
    if finite:
        torch.testing.assert_close(leaves[0].grad, want * size, rtol=1e-5, atol=1e-7 * size)
    else:
        assert not leaves[0].grad.isfinite().any()


@pytest.mark.kernel
def test_kernel_offsets_of_a_finer_map(kernel_device):
    case = Case(H=9, W=12, dtype=torch.float32, device=kernel_device)
    case.tensors[0] = case.tensors[0][:, :, :5, :7]
    got, want = case.run(), on_torch(case)
    for what in want:
        torch.testing.assert_close(got[what], want[what], msg=what)


@pytest.mark.kernel
def test_kernel_under_autocast(kernel_device):
    case = Case(dtype=torch.float32, device=kernel_device)
    case.tensors[1] = case.tensors[1].half()
    with torch.autocast(kernel_device.type, torch.float16):
        leaves = case.leaves()
        out = case.call(leaves)
    assert out.dtype == torch.float16
    out.float().sum().backward()
    assert leaves[0].grad.dtype == torch.float32
    assert torch.equal(out, case.to(torch.float16).call())


@pytest.mark.kernel
def test_kernel_compiles(kernel_device):
    torch._dynamo.reset()
    compiled = torch.compile(deform_conv2d, fullgraph=True, dynamic=True, backend="aot_eager")
    for H, W in ((5, 7), (6, 4)):
        case = Case(H=H, W=W, dtype=torch.float32, device=kernel_device)
        x, offset, weight, mask, bias = leaves = case.leaves()
        out = compiled(x, offset, weight, mask=mask, bias=bias, **case.kwargs)
        torch.testing.assert_close(out, case.call())
        out.sum().backward()
        assert all(t.grad is not None for t in leaves)


@pytest.mark.kernel
def test_kernels_refuse_float64(kernel_device):
    case = Case(device=kernel_device)
    assert "not float64" in can_run_deform_conv2d(*case.tensors[:2], 4)
    with pytest.raises(fastdet.BackendError, match="not float64"):
        case.call()


def test_kernels_refuse_what_32_bits_cannot_count():
    x = torch.empty(1, 2**20, 2**6, 2**5, device="meta")
    offset = torch.empty(1, 18, 2**6, 2**5, device="meta")
    assert "32 bits" in can_run_deform_conv2d(x, offset, 64)


@pytest.mark.kernel
def test_packed_weight_of_one_filter_of_one_tap_is_a_copy(kernel_device):
    x = torch.randn(1, 4, 3, 3, device=kernel_device)
    weight, offset = x.new_ones(1, 4, 1, 1), x.new_zeros(1, 2, 3, 3)
    results = op_module._forward.traced(x, offset, None, weight, None, [1, 1], [0, 0], [1, 1], 1, 1)
    torch.testing.assert_close(results[0], x.sum(1, keepdim=True))


@pytest.mark.kernel
@pytest.mark.parametrize("name", ["v1", "v2", "depthwise"])
def test_opcheck(kernel_device, name):
    small = {**CASES[name], "B": 1, "H": 3, "W": 3}
    case = Case(**small, dtype=torch.float32, device=kernel_device)
    x, offset, weight, mask, bias = case.leaves()
    rest = [list(case.kwargs[k]) for k in ("stride", "padding", "dilation")]
    rest += [case.kwargs["groups"], case.kwargs["deform_groups"]]
    torch.library.opcheck(op_module._forward.traced, (x, offset, mask, weight, bias, *rest))
    last = x.detach().contiguous(memory_format=torch.channels_last)
    torch.library.opcheck(op_module._forward.traced, (last, offset, mask, weight, bias, *rest))
    x, offset, weight, mask, bias = case.tensors
    packed = op_module._forward.traced(*case.tensors[:2], mask, weight, bias, *rest)[2]
    grad = torch.randn_like(case.call())
    for needs in ((True, True, True), (False, True, False), (True, False, True)):
        torch.library.opcheck(op_module._backward.traced, (
            grad, x, offset, mask, weight, *rest, *needs, packed))
