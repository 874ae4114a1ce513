"""RoIAlign: the definition against scalar loops, the CPU path and the kernels against it."""

import math

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import fastdet
from fastdet.kernels.roi_align import multi_level_roi_align, roi_align
from fastdet.kernels.roi_align import op as op_module
from fastdet.kernels.roi_align.reference import roi_align_reference, roi_levels
from fastdet.testing import assert_accurate

NAN = float("nan")
SCALES = [0.25, 0.125, 0.0625]

#: Ordinary, over the edge, tiny, of two levels.
PLAIN = [[0, 3.2, 4.1, 30, 41], [1, 10, 12, 50, 40], [0, 20, 20, 22, 23], [1, 40, 30, 64, 52],
         [0, -5, -6, 10, 12]]
#: No area, turned around, NaN, infinite, outside, huge and thin.
ODD = [[1, 7, 7, 7, 7], [0, 9, 9, 5, 4], [0, NAN, 1, 9, 9], [0, 1, 1, math.inf, 9],
       [1, 500, 500, 520, 530], [0, -300, 3, 900, 9]]


def maps(dtype=torch.float64, device="cpu", channels=3, last=False):
    layout = torch.channels_last if last else torch.contiguous_format
    return [torch.randn(2, channels, 13 >> i, 17 >> i, dtype=torch.float64)
            .to(device, dtype, memory_format=layout).requires_grad_() for i in range(3)]


def rois(rows=PLAIN, dtype=torch.float64, device="cpu"):
    return torch.tensor(rows, dtype=dtype, device=device)


def by_reference(feats, regions, *args, **kwargs):
    return roi_align_reference(feats, regions, (2, 3), SCALES, *args, finest_scale=20, **kwargs)


def ours(feats, regions, *args, **kwargs):
    return multi_level_roi_align(feats, regions, (2, 3), SCALES, *args, finest_scale=20, **kwargs)


def run(call, feats, regions, grad, *args, **kwargs):
    out = call(feats, regions, *args, **kwargs)
    return [out, *torch.autograd.grad(out, feats, grad.to(out.dtype))]


def scalar_sample(image, y, x):
    """One bilinear sample, as mmcv defines it."""
    h, w = image.shape[1:]
    if y < -1 or y > h or x < -1 or x > w:
        return torch.zeros(len(image), dtype=image.dtype)
    y, x = max(y, 0), max(x, 0)
    top, left = min(int(y), h - 1), min(int(x), w - 1)
    bottom, right = min(top + 1, h - 1), min(left + 1, w - 1)
    fy, fx = (y - top if bottom > top else 0), (x - left if right > left else 0)
    return ((1 - fy) * ((1 - fx) * image[:, top, left] + fx * image[:, top, right])
            + fy * ((1 - fx) * image[:, bottom, left] + fx * image[:, bottom, right]))


def scalar_roi_align(feat, region, size, scale, sampling_ratio, mode, aligned):
    image, (x1, y1, x2, y2) = int(region[0]), [v * scale - aligned * 0.5 for v in region[1:]]
    height, width = y2 - y1, x2 - x1
    if not aligned:
        height, width = max(height, 1), max(width, 1)
    step_y, step_x = height / size[0], width / size[1]
    grid_y = sampling_ratio or math.ceil(step_y)
    grid_x = sampling_ratio or math.ceil(step_x)
    out = torch.empty(feat.shape[1], *size, dtype=feat.dtype)
    for p in range(size[0]):
        for q in range(size[1]):
            samples = [scalar_sample(feat[image], y1 + p * step_y + (i + 0.5) * step_y / grid_y,
                                     x1 + q * step_x + (j + 0.5) * step_x / grid_x)
                       for i in range(grid_y) for j in range(grid_x)]
            stack = torch.stack(samples)
            out[:, p, q] = stack.mean(0) if mode == "avg" else stack.amax(0)
    return out


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize(("sampling_ratio", "aligned"), [(0, True), (2, True), (0, False)])
def test_reference_is_the_definition(mode, sampling_ratio, aligned):
    feats = [f.detach() for f in maps()]
    got = by_reference(feats, rois(), sampling_ratio, mode, aligned)
    for region, level, mine in zip(PLAIN, roi_levels(rois(), 3, 20).int().tolist(), got):
        want = scalar_roi_align(feats[level], region, (2, 3), SCALES[level], sampling_ratio, mode,
                                aligned)
        torch.testing.assert_close(mine, want)


def test_levels():
    sizes = torch.tensor([0, 1, 55, 111.99, 112, 223.9, 224, 448, 5000.0])
    boxes = torch.stack([sizes * 0, sizes * 0, sizes * 0, sizes, sizes], 1)
    assert roi_levels(boxes, 4, 56).tolist() == [0, 0, 0, 0, 1, 1, 2, 3, 3]
    assert roi_levels(torch.tensor([[0, 0, 0, -4.0, 5], [0, NAN, 0, 9, 9]]), 4, 56).eq(-1).all()


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize(("sampling_ratio", "aligned"), [(0, True), (2, False)])
@pytest.mark.parametrize("last", [False, True])
def test_cpu_path_equals_the_reference(mode, sampling_ratio, aligned, last):
    feats, regions = maps(last=last), rois(PLAIN + ODD)
    grad = torch.randn(len(regions), 3, 2, 3, dtype=torch.float64)
    got = run(ours, feats, regions, grad, sampling_ratio, mode, aligned)
    want = run(by_reference, feats, regions, grad, sampling_ratio, mode, aligned)
    torch.testing.assert_close(got, want)
    assert all(dx.is_contiguous(memory_format=torch.channels_last) == last for dx in got[1:])


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_gradcheck(mode):
    feats = [torch.randn(1, 1, 4, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    regions = rois([[0, 1, 2, 14, 13], [0, 2, 3, 30, 20]])
    assert torch.autograd.gradcheck(
        lambda *f: multi_level_roi_align(list(f), regions, 2, [0.25, 0.125], 0, mode,
                                         finest_scale=10), feats)


def test_what_odd_regions_hold():
    feats = [f.detach() for f in maps()]
    mean = ours(feats, rois(ODD))
    assert mean[:5].eq(0).all()  # no sample, or all of them outside
    assert mean[5].ne(0).any()
    assert ours(feats, rois(ODD), 0, "max")[:4].eq(-10000).all()
    assert ours(feats, rois(ODD), 0, "max")[4].eq(0).all()


def test_a_nan_pixel_stays_where_it_is():
    feats = [f.detach() for f in maps()]
    feats[0][0, 0, 6, 8] = NAN
    # The second lies a hair below the pixel; the third touches it.
    out = roi_align(feats[0], rois([[0, 0, 0, 4, 4], [0, 5, 7.01, 9, 12], [0, 7, 5, 9, 7]]), 2,
                    1.0, 1)
    assert out.isnan().any((1, 2, 3)).tolist() == [False, False, True]
    assert not out[:, 1:].isnan().any()


def test_nothing_to_pool():
    feats = maps()
    out = ours(feats, rois(PLAIN)[:0])
    assert out.shape == (0, 3, 2, 3)
    assert all(g.eq(0).all() for g in torch.autograd.grad(out.sum(), feats))


def test_a_result_belongs_to_its_caller():
    feats, regions = maps(), rois()
    first = ours(feats, regions)
    kept = first.detach().clone()
    first.detach().zero_()
    assert torch.equal(ours(feats, regions), kept)


@pytest.mark.parametrize(("change", "text"), [
    ({"feats": []}, "one spatial scale for each of one map or more"),
    ({"spatial_scales": [1.0]}, "one spatial scale for each"),
    ({"feats": [torch.zeros(2, 3, 4)] * 3}, r"must be floating-point \[B, C, H, W\]"),
    ({"feats": [torch.zeros(2, 3, 4, 4), *[torch.zeros(2, 4, 4, 4)] * 2]}, "all maps must have"),
    ({"rois": torch.zeros(3, 4)}, r"rois must be floating-point \[N, 5\]"),
    ({"rois": torch.tensor([[2.0, 0, 0, 4, 4]])}, "image 2 of a region is not one of the 2"),
    ({"rois": torch.tensor([[NAN, 0, 0, 4, 4]])}, "image nan of a region"),
    ({"pool_mode": "mean"}, "pool_mode must be 'avg' or 'max'"),
    ({"sampling_ratio": -1}, "sampling_ratio must not be negative"),
    ({"output_size": (7, 0)}, "one or two positive integers"),
    ({"levels": torch.zeros(2)}, r"levels must be \[1\]"),
    ({"spatial_scales": [1.0, 0.5, 0.0]}, "scales must be positive"),
])
def test_bad_input(change, text):
    arguments = {"feats": [torch.zeros(2, 3, 4, 4)] * 3, "rois": torch.zeros(1, 5),
                 "output_size": 7, "spatial_scales": SCALES}
    with pytest.raises(ValueError, match=text):
        multi_level_roi_align(**{**arguments, **change})


@pytest.mark.parametrize("mode", ["avg", "max"])
def test_compiles_in_one_graph(mode):
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(ours, fullgraph=True, backend=counter)
    torch._dynamo.reset()
    for rows in (PLAIN, PLAIN[:3], PLAIN[1:]):
        feats, regions = maps(torch.float32), rois(rows, torch.float32)
        grad = torch.ones(len(rows), 3, 2, 3)
        torch.testing.assert_close(run(compiled, feats, regions, grad, 0, mode),
                                   run(ours, feats, regions, grad, 0, mode))
    assert counter.frame_count <= 2


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("dtype", "mode", "sampling_ratio", "aligned", "last"), [
    (torch.float32, "avg", 0, True, False), (torch.float32, "max", 2, False, True),
    (torch.float16, "avg", 2, False, False), (torch.float16, "max", 0, True, False),
    (torch.bfloat16, "avg", 0, True, True), (torch.bfloat16, "max", 2, True, False)])
def test_kernel(kernel_device, dtype, mode, sampling_ratio, aligned, last):
    feats = maps(dtype, kernel_device, 2, last)
    regions = rois(PLAIN[:4], torch.float32, kernel_device)
    grad = torch.randn(4, 2, 2, 3, device=kernel_device).to(dtype)
    arguments = (grad, sampling_ratio, mode, aligned)
    got = run(ours, feats, regions, *arguments)
    torchs = run(by_reference, feats, regions, *arguments)
    exact = [f.detach().double().requires_grad_() for f in feats]
    truth = run(by_reference, exact, regions, *arguments)
    for name, mine, theirs, true in zip(("out", "p0", "p1", "p2"), got, torchs, truth):
        assert mine.dtype == dtype
        assert_accurate(name, mine, theirs, true, dtype)
    assert all(dx.is_contiguous(memory_format=torch.channels_last) == last for dx in got[1:])


@pytest.mark.kernel
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_kernel_of_odd_regions(kernel_device, mode):
    feats = maps(torch.float32, kernel_device, 1)
    regions = rois(ODD, torch.float32, kernel_device)
    grad = torch.ones(len(regions), 1, 2, 3, device=kernel_device)
    got = run(ours, feats, regions, grad, 0, mode)
    want = run(by_reference, feats, regions, grad, 0, mode)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.kernel
def test_kernel_of_images_that_are_not_there(kernel_device):
    regions = rois([[7, 0, 0, 9, 9], [NAN, 0, 0, 9, 9], [-1, 0, 0, 9, 9]], torch.float32,
                   kernel_device)
    out, geometry, found = op_module._forward.traced(
        maps(torch.float32, kernel_device), regions, None, SCALES, 2, 3, 0, False, True, 20.0, True)
    assert out.eq(0).all()
    grads = op_module._backward(torch.ones_like(out), geometry, found, [2, 13, 17], [False], True)
    assert grads[0].eq(0).all()


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("n", "images"), [(0, 2), (4, 1), (11, 2), (3, 0)])
def test_kernel_orders_regions(kernel_device, monkeypatch, n, images):
    monkeypatch.setattr(op_module, "BLOCK_ORDER", 4)
    plan = op_module._plan_backward.__wrapped__((images, 3, 5) * 3, (False,) * 3, 1, (2, 2),
                                                torch.float32, False)
    geometry = torch.arange(8.0 * n).view(n, 8)
    geometry[:, 0] = torch.randint(-1, 3, (n,)) if images else -1
    geometry[:, 1] = torch.randint(0, max(images, 1), (n,)) * (geometry[:, 0] >= 0)
    geometry = geometry.to(kernel_device)
    ordered, order = torch.empty_like(geometry), geometry.new_empty(n, dtype=torch.int64)
    starts = geometry.new_empty(3 * images + 1, dtype=torch.int32)
    plan.order(geometry, ordered, order, starts, n, device=kernel_device)
    key = (geometry[:, 0] * images + geometry[:, 1]).where(geometry[:, 0] >= 0, -1)
    want = key.sort(stable=True)[1][key.lt(0).sum():]
    assert order[:len(want)].tolist() == want.tolist()
    assert torch.equal(ordered[:len(want)], geometry[want])
    assert starts.tolist() == [int(((key >= 0) & (key < g)).sum()) for g in range(len(starts))]


@pytest.mark.kernel
def test_kernel_takes_levels_and_many_bins(kernel_device):
    feats = maps(torch.float32, kernel_device, 2)
    regions = rois(PLAIN[:3], torch.float32, kernel_device)
    levels = torch.tensor([2, 0, 5], device=kernel_device)
    args = ((7, 6), SCALES, 1)
    got = multi_level_roi_align(feats, regions, *args, levels=levels)
    torch.testing.assert_close(got, roi_align_reference(feats, regions, *args, levels=levels))
    assert got[2].eq(0).all()
    assert ours(feats, regions[:0]).shape == (0, 2, 2, 3)


@pytest.mark.kernel
def test_kernel_refuses_what_it_cannot(kernel_device):
    with pytest.raises(fastdet.BackendError, match=r"not torch\.float64"):
        ours(maps(device=kernel_device), rois(device=kernel_device))
    with pytest.raises(fastdet.BackendError, match="up to 5 levels, not 6"):
        multi_level_roi_align([torch.zeros(1, 1, 2, 2, device=kernel_device)] * 6,
                              torch.zeros(1, 5, device=kernel_device), 2, [1.0] * 6)


@pytest.mark.kernel
def test_opcheck(kernel_device):
    feats = maps(torch.float32, kernel_device, 1)
    torch.library.opcheck(op_module._forward.traced, (
        feats, rois(PLAIN[:1], torch.float32, kernel_device), None, SCALES, 1, 2, 1, False, True,
        20.0, True), test_utils=("test_schema", "test_autograd_registration", "test_faketensor"))


def test_opcheck_on_the_cpu():
    torch.library.opcheck(op_module._forward.traced, (
        maps(torch.float32), rois(dtype=torch.float32), None, SCALES, 2, 2, 0, True, True, 20.0,
        False))
