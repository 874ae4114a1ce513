"""Gaussian targets: bit for bit the per-box definition, on both backends."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastdet
from fastdet.kernels.gaussian_targets import (
    centernet_targets,
    cornernet_targets,
    cpu,
    gaussian_radius,
    reference,
)
from fastdet.kernels.gaussian_targets import op as op_module
from fastdet.models.utils import gaussian_radius as radius_of_mmdet
from fastdet.models.utils import gen_gaussian_target

HALF = (torch.float32, torch.float16, torch.bfloat16)


def boxes(n, height, width, seed=0, device="cpu"):
    """[n, 4] boxes inside an image."""
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.random((n, 2)) * width, 1), np.sort(rng.random((n, 2)) * height, 1)
    made = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)
    return torch.tensor(made, dtype=torch.float32, device=device)


def batch(counts, height, width, classes, device="cpu"):
    gt = [boxes(n, height, width, seed=i, device=device) for i, n in enumerate(counts)]
    rng = np.random.default_rng(7)
    labels = [torch.tensor(rng.integers(0, classes, n), device=device) for n in counts]
    return gt, labels


def same(got, want):
    target, ones = got
    heat, size, offset, weight, count = want
    assert torch.equal(target["center_heatmap_target"], heat)
    assert torch.equal(target["wh_target"], size)
    assert torch.equal(target["offset_target"], offset)
    assert torch.equal(target["wh_offset_target_weight"], weight)
    assert int(ones) == count


def centernet_loop(gt_bboxes, gt_labels, shape, image_shape, min_overlap=0.3):
    """CenterNet's targets by the definitions of the reference, one box after the other."""
    b, c, h, w = shape
    boxes, labels = torch.cat(gt_bboxes), torch.cat(gt_labels)
    image = torch.cat([torch.full((len(t),), i) for i, t in enumerate(gt_bboxes)])
    discs, values = reference.centernet_discs(boxes, labels, w / image_shape[1],
                                              h / image_shape[0], min_overlap)
    heat = torch.zeros(b, c, h, w, dtype=boxes.dtype)
    reference.draw(heat, discs, image)
    return heat, *reference.cells(discs, image, values, (b, h, w), boxes.dtype), max(
        1, int(heat.eq(1).sum()))


def draw_loop(heat, x, y, radius, k=1):
    reference.draw(heat[None, None], torch.tensor([[0, x, y, radius]]), torch.tensor([0]), k)


# ------------------------------------------------------------------ the CPU path
@pytest.mark.parametrize("counts", [(3, 0, 9), (0, 0), (25,)])
def test_cpu_path_is_the_loop_bit_for_bit(counts):
    shape, image = (len(counts), 4, 24, 40), (96, 160, 3)
    gt, labels = batch(counts, 96, 160, 4)
    want = centernet_loop(gt, labels, shape, image)
    same(centernet_targets(gt, labels, shape, image), want)


@pytest.mark.parametrize("dtype", [torch.float64, *HALF])
@pytest.mark.parametrize(("center", "radius"), [
    ((8, 6), 3), ((0, 0), 4), ((19, 11), 6), ((7, 2), 0), ((-2, 5), 4), ((25, 3), 6), ((40, 3), 5)])
def test_one_gaussian_is_the_definition(dtype, center, radius):
    heat = torch.rand(12, 20).to(dtype) * 0.3
    want = heat.clone()
    draw_loop(want, *center, radius, 2.5)
    got = gen_gaussian_target(heat, center, radius, k=2.5)
    assert got is heat
    assert torch.equal(heat, want)


def iou_radius(height, width, min_overlap):
    """The radius by its meaning: bisect the largest shift that keeps the IoU in all three cases."""
    area = height * width

    def keeps(r):
        one = (width - r) * (height - r)
        inner = (width - 2 * r) * (height - 2 * r)
        outer = (width + 2 * r) * (height + 2 * r)
        return (2 * r <= min(height, width) and one >= min_overlap * (2 * area - one)
                and inner >= min_overlap * area and area >= min_overlap * outer)

    low, high = 0.0, math.hypot(height, width)
    for _ in range(80):
        mid = (low + high) / 2
        low, high = (mid, high) if keeps(mid) else (low, mid)
    return low


@given(st.floats(1, 300), st.floats(1, 300), st.floats(0.05, 0.95))
def test_radius_keeps_the_overlap(height, width, min_overlap):
    want = iou_radius(height, width, min_overlap)
    assert gaussian_radius(height, width, min_overlap) == pytest.approx(want, rel=1e-6, abs=1e-9)
    size = torch.tensor([height, width], dtype=torch.float64)
    assert float(gaussian_radius(*size, min_overlap)) == pytest.approx(want, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, *HALF])
def test_all_discs_at_once_are_the_loop_bit_for_bit(dtype):
    discs = torch.tensor([[0, 3, 4, 2], [1, 3, 4, 5], [0, 4, 4, 3], [1, 0, 11, 0], [1, 30, 3, 4]])
    image = torch.tensor([0, 0, 1, 1, 1])
    got, want = (torch.rand(2, 2, 12, 20, generator=torch.Generator().manual_seed(1)).to(dtype) / 2
                 for _ in range(2))
    cpu.draw(got, discs, image, 1.5)
    reference.draw(want, discs, image, 1.5)
    assert torch.equal(got, want)
    values = torch.randn(5, 4)
    assert torch.equal(cpu.cells(discs, image, values, (2, 12, 20), dtype),
                       reference.cells(discs, image, values, (2, 12, 20), dtype))


def test_one_disc_leaves_nothing_that_a_caller_can_reach():
    first, second = torch.zeros(7, 7), torch.zeros(7, 7)
    gen_gaussian_target(first, (3, 3), 3)
    want = first.clone()
    first.add_(1)
    gen_gaussian_target(second, (3, 3), 3)
    assert torch.equal(second, want)
    with torch._subclasses.FakeTensorMode() as mode:
        gen_gaussian_target(mode.from_tensor(torch.zeros(9, 9)), (4, 4), 4)
    assert gen_gaussian_target(torch.zeros(9, 9), (4, 4), 4)[4, 4].item() == 1


#: (height, width, min_overlap, what MMDetection 2.26 gives for float32 tensors of one element):
#: cases in which the last bits depend on a square root that is rounded correctly.
RADII = [
    (93.22684478759766, 191.22360229492188, 0.7, 10.121089935302734),
    (137.6884002685547, 190.69187927246094, 0.5, 23.29376983642578),
    (7.697726249694824, 51.657684326171875, 0.7, 1.0414600372314453),
    (89.16653442382812, 156.55653381347656, 0.7, 9.212291717529297),
    (286.8214416503906, 11.849446296691895, 0.5, 2.9011993408203125),
]


@pytest.mark.parametrize("shape", [(1,), (), (3,)])
def test_radius_of_tensors_has_the_bits_of_mmdetection(shape):
    for height, width, min_overlap, want in RADII:
        size = (torch.full(shape, height), torch.full(shape, width))
        assert (radius_of_mmdet(size, min_overlap) == torch.tensor(want)).all()


@pytest.mark.parametrize(("size", "overlap", "text"), [
    ((-3, 4), 0.5, r"height and a width that are not negative, got \(-3, 4\)"),
    ((float("nan"), 4), 0.5, r"not negative, got \(nan, 4\)"),
    ((3, 4), 0, r"min_overlap must lie in \(0, 1\], got 0"),
    ((3, 4), 1.5, r"min_overlap must lie in \(0, 1\], got 1.5"),
])
def test_radius_of_no_box(size, overlap, text):
    with pytest.raises(ValueError, match=text):
        radius_of_mmdet(size, overlap)


@given(st.permutations(range(6)))
def test_heatmap_does_not_depend_on_the_order(order):
    gt, labels = batch((6,), 96, 160, 3)
    order = list(order)
    first, count = centernet_targets(gt, labels, (1, 3, 24, 40), (96, 160))
    other, again = centernet_targets([gt[0][order]], [labels[0][order]], (1, 3, 24, 40), (96, 160))
    assert torch.equal(first["center_heatmap_target"], other["center_heatmap_target"])
    assert count == again


def test_drawing_twice_changes_nothing():
    heat = torch.zeros(12, 20)
    once = gen_gaussian_target(heat, (5, 5), 4).clone()
    assert torch.equal(gen_gaussian_target(heat, (5, 5), 4), once)


def test_a_disc_is_symmetric():
    heat = gen_gaussian_target(torch.zeros(11, 11), (5, 5), 5)
    assert torch.equal(heat, heat.T)
    assert torch.equal(heat, heat.flip(0))
    assert heat[5, 5] == 1


def test_later_box_of_a_cell_wins():
    gt = [torch.tensor([[0.0, 0, 40, 40], [10, 10, 30, 30]])]
    target, _ = centernet_targets(gt, [torch.tensor([0, 1])], (1, 2, 16, 16), (64, 64))
    assert target["wh_target"][0, :, 5, 5].tolist() == [5.0, 5.0]
    assert int(target["wh_offset_target_weight"].sum()) == 2


def cornernet_loop(gt_bboxes, gt_labels, shape, image):
    """CornerNet's targets with Python numbers, one box after the other."""
    b, c, h, w = shape
    ratio = (w / image[1], h / image[0])
    out = {}
    for name in ("topleft", "bottomright"):
        out[f"{name}_heatmap"] = torch.zeros(b, c, h, w)
        for key in ("offset", "guiding_shift", "centripetal_shift"):
            out[f"{name}_{key}"] = torch.zeros(b, 2, h, w)
    cells = []
    for i, (boxes_i, labels_i) in enumerate(zip(gt_bboxes, gt_labels)):
        cells.append([])
        for box, label in zip(boxes_i, labels_i):
            left, top, right, bottom = (box[j] * ratio[j % 2] for j in range(4))
            mid = [(box[j] + box[j + 2]) / 2.0 * ratio[j] for j in range(2)]
            width, height = math.ceil(right - left), math.ceil(bottom - top)
            radius = max(0, int(gaussian_radius(height, width, 0.3)))
            for name, x, y in (("topleft", left, top), ("bottomright", right, bottom)):
                cx, cy = int(min(x, w - 1)), int(min(y, h - 1))
                draw_loop(out[f"{name}_heatmap"][i, label], cx, cy, radius)
                sign = 1 if name == "topleft" else -1
                for j, (side, cell) in enumerate(((x, cx), (y, cy))):
                    out[f"{name}_offset"][i, j, cy, cx] = side - cell
                    out[f"{name}_guiding_shift"][i, j, cy, cx] = sign * (mid[j] - cell)
                    reach = math.log(sign * (mid[j] - side))
                    out[f"{name}_centripetal_shift"][i, j, cy, cx] = reach
                cells[-1].append([cy, cx])
    return out, cells


def test_cornernet_is_the_loop_bit_for_bit():
    shape, image = (2, 3, 24, 40), (96, 160, 3)
    gt, labels = batch((7, 4), 96, 160, 3)
    want, cells = cornernet_loop(gt, labels, shape, image)
    got = cornernet_targets(gt, labels, shape, image, with_corner_emb=True, with_guiding_shift=True,
                            with_centripetal_shift=True)
    assert [t.view(-1, 2).tolist() for t in got.pop("corner_embedding")] == cells
    assert set(got) == set(want)
    for key in want:
        assert torch.equal(got[key], want[key]), key
    plain = cornernet_targets(gt, labels, shape, image)
    assert set(plain) == {"topleft_heatmap", "topleft_offset", "bottomright_heatmap",
                          "bottomright_offset"}


@pytest.mark.parametrize(("change", "text"), [
    (dict(gt_labels=[torch.zeros(2)]), r"image 0: expected boxes \[n, 4\] and labels \[n\]"),
    (dict(feat_shape=(2, 3, 24, 40)), "1 images of boxes, 1 of labels, and a batch of 2"),
    (dict(feat_shape=(3, 24, 40)), "feat_shape must be"),
    (dict(gt_labels=[torch.tensor([0, 1, 3])]), "labels must lie in 0..2"),
    (dict(gt_bboxes=[boxes(3, 96, 160) + 400]), "outside the 24 x 40 map"),
])
def test_bad_input(change, text):
    given_ = dict(gt_bboxes=[boxes(3, 96, 160)], gt_labels=[torch.tensor([0, 1, 2])],
                  feat_shape=(1, 3, 24, 40), img_shape=(96, 160))
    with pytest.raises(ValueError, match=text):
        centernet_targets(**{**given_, **change})


def test_bad_heatmap():
    with pytest.raises(ValueError, match="heatmap must be a floating tensor"):
        gen_gaussian_target(torch.zeros(2, 3, 4), (0, 0), 1)
    with pytest.raises(ValueError, match="radius must not be negative, got -1"):
        gen_gaussian_target(torch.zeros(3, 4), (0, 0), -1)


# ------------------------------------------------------------------ the kernels
@pytest.fixture
def _one_exp(monkeypatch):
    """The interpreter's exp is NumPy's: let the reference use it too, so bits can be compared."""
    if op_module.interpreting():
        def numpy_exp(t):
            wide = t.float() if t.dtype in (torch.float16, torch.bfloat16) else t
            return torch.from_numpy(np.exp(wide.numpy())).to(t.dtype)
        monkeypatch.setattr(torch.Tensor, "exp", numpy_exp)


def on_torch(function, *args, **kwargs):
    with fastdet.backend("torch"):
        return function(*args, **kwargs)


@pytest.mark.kernel
@pytest.mark.usefixtures("_one_exp", "poison")
@pytest.mark.parametrize("counts", [(3, 0, 5), (0, 0), (6,)])
def test_kernel_centernet_bit_for_bit(kernel_device, counts):
    shape, image = (len(counts), 2, 40, 70), (160, 280, 3)
    gt, labels = batch(counts, 160, 280, 2, kernel_device)
    target, ones = centernet_targets(gt, labels, shape, image)
    want, count = on_torch(centernet_targets, gt, labels, shape, image)
    assert int(ones) == int(count)
    for key in want:
        assert torch.equal(target[key], want[key]), key


@pytest.mark.kernel
def test_kernel_discs_bit_for_bit(kernel_device):
    """Centres and radii, truncated from fp32: many boxes, sides down to a pixel."""
    gt = boxes(400, 640, 800, device=kernel_device)
    gt[:50, 2:] = gt[:50, :2] + torch.arange(50, device=kernel_device)[:, None] % 7
    labels = torch.arange(400, device=kernel_device) % 3
    from fastdet.kernels.gaussian_targets.reference import centernet_discs
    got = op_module._discs_triton(gt, labels, 200 / 797, 160 / 639, 0.3)
    want = centernet_discs(gt, labels, 200 / 797, 160 / 639, 0.3)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


@pytest.mark.kernel
@pytest.mark.usefixtures("_one_exp")
@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("center", "radius"), [
    ((8, 6), 3), ((0, 0), 4), ((-2, 5), 4), ((40, 3), 5)])
def test_kernel_one_gaussian_bit_for_bit(kernel_device, dtype, center, radius):
    whole = (torch.rand(12, 40, device=kernel_device) * 0.3).to(dtype)
    heat = whole[:, ::2]
    want = heat.clone()
    on_torch(gen_gaussian_target, want, center, radius, k=2.5)
    beside = whole[:, 1::2].clone()
    assert gen_gaussian_target(heat, center, radius, k=2.5) is heat
    assert torch.equal(heat, want)
    assert torch.equal(whole[:, 1::2], beside)


@pytest.mark.kernel
@pytest.mark.usefixtures("_one_exp", "poison")
def test_kernel_cornernet_bit_for_bit(kernel_device):
    gt, labels = batch((3, 2), 160, 280, 2, kernel_device)
    flags = dict(with_corner_emb=True, with_guiding_shift=True, with_centripetal_shift=True)
    got = cornernet_targets(gt, labels, (2, 2, 40, 70), (160, 280), **flags)
    want = on_torch(cornernet_targets, gt, labels, (2, 2, 40, 70), (160, 280), **flags)
    assert set(got) == set(want)
    for key in want:
        if key == "corner_embedding":
            assert [t.tolist() for t in got[key]] == [t.tolist() for t in want[key]]
        else:
            assert torch.equal(got[key], want[key]), key


@pytest.mark.kernel
def test_kernel_refuses_what_it_cannot(kernel_device):
    with pytest.raises(fastdet.BackendError, match=r"no kernel for torch\.float64 heatmaps"):
        gen_gaussian_target(torch.zeros(4, 4, dtype=torch.float64, device=kernel_device), (1, 1), 1)


@pytest.mark.kernel
def test_opcheck(kernel_device):
    gt, labels = batch((3,), 80, 80, 2, kernel_device)
    discs, values = op_module._discs_triton(gt[0], labels[0], 0.25, 0.25, 0.3)
    torch.library.opcheck(op_module._discs_triton.traced, (gt[0], labels[0], 0.25, 0.25, 0.3))
    torch.library.opcheck(op_module._targets_triton.traced,
                          (discs, [3], values, 2, 20, 20, torch.float32))
    heat = torch.zeros(20, 20, device=kernel_device)
    torch.library.opcheck(op_module._draw_triton, (heat, 4, 5, 3, 1.0))


@pytest.mark.kernel
@pytest.mark.parametrize("count", [1, 6, 16, 17, 40])
def test_kernel_writes_numbers(kernel_device, count):
    numbers = [7 * i - 30 + 2**30 * (i % 3 == 2) for i in range(count)]
    assert op_module._on_device(numbers, kernel_device).tolist() == numbers


@pytest.mark.kernel
def test_nothing_is_copied_from_the_host(kernel_device):
    """What a CUDA graph replays must not be read from the host's memory."""
    gt, labels = batch((3, 2), 80, 80, 2, kernel_device)

    class NoCopies(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert "lift_fresh" not in func.name(), "a tensor is made of numbers of the host"
            assert "pin_memory" not in func.name()
            return func(*args, **(kwargs or {}))

    with NoCopies():
        centernet_targets(gt, labels, (2, 2, 20, 20), (80, 80))
        gen_gaussian_target(torch.zeros(9, 9, device=kernel_device), (4, 4), 4)


@pytest.mark.gpu
@pytest.mark.kernel
def test_captured_in_a_cuda_graph(kernel_device):
    gt, labels = batch((3, 2), 80, 80, 2, kernel_device)

    def call():
        target, ones = centernet_targets(gt, labels, (2, 2, 20, 20), (80, 80))
        drawn = gen_gaussian_target(torch.zeros(9, 9, device=kernel_device), (4, 4), 4)
        return [*target.values(), ones, drawn]

    want = call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = call()
    for tensor in got:
        tensor.zero_()
    graph.replay()
    assert all(map(torch.equal, got, want))
