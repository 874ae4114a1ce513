"""Grid priors: bit for bit the reference, which is bit for bit a loop over cells."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

import fastdet
from fastdet.kernels.grid_priors import (
    can_run_grid_priors,
    grid_anchors,
    grid_points,
    level_rows,
    split_levels,
)
from fastdet.kernels.grid_priors.cpu import grid_anchors_cpu, grid_points_cpu
from fastdet.kernels.grid_priors.op import _anchors_op, _points_op
from fastdet.kernels.grid_priors.reference import grid_anchors_reference, grid_points_reference
from fastdet.kernels.launch import record_launches

DTYPES = [torch.float32, torch.float16, torch.bfloat16]

# (sizes, strides, counts): odd sizes, an empty level, fractional and unequal strides, and
# maps wide enough that half precision rounds the index and the product.
PYRAMIDS = {
    "fpn": ([(13, 21), (7, 11), (4, 6), (2, 3), (1, 2)], [(8, 8), (16, 16), (32, 32), (64, 64),
                                                          (128, 128)], [9] * 5),
    "fractional": ([(5, 7), (3, 2)], [(7.971014492753623, 15.714285714285714), (0.1, 61.1)],
                   [3, 1]),
    "empty-level": ([(3, 4), (0, 5), (2, 2)], [(8, 4), (16, 16), (32, 32)], [2, 3, 1]),
    "all-empty": ([(0, 0)], [(8, 8)], [3]),
    "wide": ([(1, 2500), (300, 2)], [(8, 8), (7.3, 7.3)], [1, 2]),
    "nine-levels": ([(2, 3)] * 8 + [(3, 5)], [(float(s), s + 0.5) for s in range(1, 10)],
                    [1, 2, 3, 1, 2, 3, 1, 2, 3]),
}
pyramids = pytest.mark.parametrize("name", PYRAMIDS)


def base_anchors(counts, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(7)
    base = torch.randn(sum(counts), 4, generator=generator) * 40
    return base.to(dtype).to(device)


def loop_anchors(base, counts, sizes, strides):
    """MMDetection's order and roundings, a cell at a time."""
    dtype, rows, first = base.dtype, [], 0
    for (h, w), (sx, sy), a in zip(sizes, strides, counts):
        for y in range(h):
            for x in range(w):
                shift_x = torch.tensor(x).to(dtype).view(1) * sx
                shift_y = torch.tensor(y).to(dtype).view(1) * sy
                shift = torch.cat([shift_x, shift_y, shift_x, shift_y])
                rows += [base[first + i] + shift for i in range(a)]
        first += a
    return torch.stack(rows) if rows else base.new_zeros(0, 4)


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", DTYPES)
@pyramids
def test_anchor_kernel_equals_reference(name, dtype, kernel_device, poison):
    sizes, strides, counts = PYRAMIDS[name]
    base = base_anchors(counts, dtype, kernel_device)
    got = grid_anchors(base, counts, sizes, strides)
    want = grid_anchors_reference(base.cpu(), counts, sizes, strides)
    assert got.dtype == dtype
    assert torch.equal(got.cpu(), want)


@pytest.mark.kernel
@pytest.mark.parametrize("stride_columns", [0, 1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pyramids
def test_point_kernel_equals_reference(name, dtype, stride_columns, kernel_device, poison):
    sizes, strides, _ = PYRAMIDS[name]
    got = grid_points(sizes, strides, 0.3, stride_columns=stride_columns, dtype=dtype,
                      device=kernel_device)
    want = grid_points_reference(sizes, strides, 0.3, stride_columns, dtype, torch.device("cpu"))
    assert got.dtype == dtype
    assert torch.equal(got.cpu(), want)


@pytest.mark.kernel
@pytest.mark.parametrize("view", ["expanded", "strided", "requires-grad"])
def test_base_anchors_of_any_layout(view, kernel_device):
    sizes, strides, counts = PYRAMIDS["fractional"]
    base = base_anchors(counts, device=kernel_device)
    given_base = {"expanded": base[:1].expand(4, 4), "strided": base.repeat(1, 2)[:, ::2],
                  "requires-grad": base.clone().requires_grad_()}[view]
    got = grid_anchors(given_base, counts, sizes, strides)
    assert not got.requires_grad
    plain = given_base.detach().contiguous().cpu()
    assert torch.equal(got.cpu(), grid_anchors_reference(plain, counts, sizes, strides))


@pytest.mark.kernel
def test_kernel_writes_nothing_else(kernel_device, monkeypatch):
    sizes, strides, counts = PYRAMIDS["empty-level"]
    n = sum(level_rows(sizes, counts))
    border = torch.full((n + 64, 4), float("nan"), device=kernel_device)
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(
        torch.Tensor, "new_empty",
        lambda self, *shape, **kw: border[:n] if shape == (n, 4) else new_empty(self, *shape, **kw))
    got = grid_anchors(base_anchors(counts, device=kernel_device), counts, sizes, strides)
    assert got.data_ptr() == border.data_ptr()
    assert torch.isfinite(got).all()
    assert torch.isnan(border[n:]).all()


@pytest.mark.kernel
def test_one_launch_for_all_levels(kernel_device):
    for name, launches in (("fpn", 1), ("all-empty", 0), ("nine-levels", 2)):
        sizes, strides, counts = PYRAMIDS[name]
        with record_launches((9, 0)) as recorded:
            grid_anchors(base_anchors(counts, device=kernel_device), counts, sizes, strides)
            assert len(recorded) == launches
            grid_points(sizes, strides, device=kernel_device)
        assert len(recorded) == 2 * launches
        for launched in recorded:
            # One integer type and no float beside float: sizes never ask for another kernel.
            numbers = [a for a in launched.args if not isinstance(a, torch.Tensor)]
            assert all(isinstance(a, float) or 2**62 <= a < 2**63 for a in numbers)
            assert launched.options["enable_fp_fusion"] is False


@pytest.mark.kernel
def test_opcheck_kernel(kernel_device):
    sizes, strides, counts = PYRAMIDS["fractional"]
    flat_sizes = [n for size in sizes for n in size]
    flat_strides = [float(s) for stride in strides for s in stride]
    for base in (base_anchors(counts, torch.bfloat16, kernel_device),
                 base_anchors(counts, device=kernel_device).requires_grad_()):
        tests = ("test_schema", "test_faketensor")
        torch.library.opcheck(_anchors_op, (base.detach(), counts, flat_sizes, flat_strides),
                              test_utils=(*tests, "test_autograd_registration"))
    torch.library.opcheck(_points_op, (flat_sizes, flat_strides, 0.5, 2, torch.float16,
                                       kernel_device), test_utils=tests)


@pytest.mark.kernel
def test_triton_backend_says_why_it_cannot(kernel_device):
    with pytest.raises(fastdet.BackendError, match="float64"):
        grid_points([(2, 2)], [(8, 8)], dtype=torch.float64, device=kernel_device)


@pytest.mark.gpu
@pytest.mark.kernel
def test_captured_in_a_cuda_graph(kernel_device):
    sizes, strides, counts = PYRAMIDS["fpn"]
    base = base_anchors(counts, device=kernel_device)
    want = grid_anchors(base, counts, sizes, strides)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = grid_anchors(base, counts, sizes, strides)
    got.zero_()
    graph.replay()
    assert torch.equal(got, want)


@pytest.mark.gpu
@pytest.mark.kernel
def test_one_compiled_kernel_for_all_sizes(kernel_device):
    from fastdet.kernels.grid_priors.kernel import grid_anchors_fwd_kernel

    def compiled():  # Triton 3.2 keeps compiled kernels elsewhere
        caches = getattr(grid_anchors_fwd_kernel, "device_caches", None)
        if caches is None:
            return sum(map(len, grid_anchors_fwd_kernel.cache.values()))
        return sum(len(cache[0]) for cache in caches.values())

    base = base_anchors([9])
    grid_anchors(base.to(kernel_device), [9], [(16, 16)], [(8, 8)])
    before = compiled()
    for size in ((1, 1), (1, 16), (17, 1), (100, 168), (333, 5)):
        grid_anchors(base.to(kernel_device), [9], [size], [(8, 8.5)])
    assert compiled() == before


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("name", ["fractional", "empty-level", "nine-levels", "all-empty"])
def test_reference_equals_loop(name, dtype):
    sizes, strides, counts = PYRAMIDS[name]
    base = base_anchors(counts, dtype)
    assert torch.equal(grid_anchors(base, counts, sizes, strides),
                       loop_anchors(base, counts, sizes, strides))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pyramids
def test_cpu_path_equals_reference(name, dtype):
    sizes, strides, counts = PYRAMIDS[name]
    base = base_anchors(counts, dtype)
    for _ in range(2):  # the second time from kept tables
        assert torch.equal(grid_anchors_cpu(base, counts, sizes, strides),
                           grid_anchors_reference(base, counts, sizes, strides))
        for columns in (0, 1, 2):
            arguments = sizes, strides, 0.3, columns, dtype
            assert torch.equal(grid_points_cpu(*arguments),
                               grid_points_reference(*arguments, torch.device("cpu")))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_points_equal_loop(dtype):
    sizes, strides, _ = PYRAMIDS["fractional"]
    want = []
    for (h, w), (sx, sy) in zip(sizes, strides):
        for y in range(h):
            for x in range(w):
                at = (torch.tensor([x, y], dtype=torch.float32) + 0.3) * torch.tensor([sx, sy])
                want.append(torch.cat([at.to(dtype), torch.tensor([sx, sy]).double().to(dtype)]))
    got = grid_points(sizes, strides, 0.3, stride_columns=2, dtype=dtype)
    assert torch.equal(got[:, :2], torch.stack(want)[:, :2])
    assert torch.equal(got[:, 2:].float(), torch.stack(want)[:, 2:].float())


def test_bfloat16_rounds_at_every_step():
    base = torch.tensor([[-11.3, -7.7, 11.3, 7.7]])
    stepwise = grid_anchors(base.bfloat16(), [1], [(2, 400)], [(8, 8)])
    once = grid_anchors(base, [1], [(2, 400)], [(8, 8)]).bfloat16()
    assert 0.05 < (stepwise != once).float().mean() < 0.5


@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 3), st.integers(0, 3))
def test_bigger_map_extends_smaller(h, w, more_h, more_w):
    base = base_anchors([3])
    small = grid_anchors(base, [3], [(h, w)], [(7.3, 9)]).view(h, w, 3, 4)
    big = grid_anchors(base, [3], [(h + more_h, w + more_w)], [(7.3, 9)])
    assert torch.equal(big.view(h + more_h, w + more_w, 3, 4)[:h, :w], small)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=10))
def test_levels_do_not_depend_on_one_another(sizes):
    counts = [1 + i % 3 for i in range(len(sizes))]
    strides = [(2.0 ** i, 3.0 * i + 1) for i in range(len(sizes))]
    base = base_anchors(counts)
    levels = split_levels(grid_anchors(base, counts, sizes, strides), level_rows(sizes, counts))
    for level, part, count, size, stride in zip(levels, base.split(counts), counts, sizes, strides):
        assert torch.equal(level, grid_anchors(part, [count], [size], [stride]))


def test_fake_tensors():
    with FakeTensorMode():
        base = torch.empty(4, 4, dtype=torch.float16)
        anchors = grid_anchors(base, [3, 1], [(5, 7), (3, 2)], [(8, 8), (16, 16)])
        points = grid_points([(5, 7)], [(8, 8)], stride_columns=1, dtype=torch.bfloat16)
    assert (anchors.shape, anchors.dtype) == ((111, 4), torch.float16)
    assert (points.shape, points.dtype) == ((35, 3), torch.bfloat16)


def test_can_run_says_why_not():
    assert can_run_grid_priors(torch.float32, [9], [(100, 168)]) is None
    assert "float64" in can_run_grid_priors(torch.float64, [9], [(1, 1)])
    assert "40000" in can_run_grid_priors(torch.float32, [9], [(40000, 1)])
    assert "rows" in can_run_grid_priors(torch.float32, [32767], [(32767, 32767)])


@pytest.mark.parametrize(("call", "message"), [
    (lambda: grid_anchors(torch.zeros(3, 4), [3], [(2, 2)], [(8, 8), (4, 4)]),
     "strides has 2 levels, but there are 1 sizes"),
    (lambda: grid_anchors(torch.zeros(3, 4), [2], [(2, 2)], [(8, 8)]),
     r"base_anchors must be \[2, 4\] for counts \[2\], got \[3, 4\]"),
    (lambda: grid_anchors(torch.zeros(3, 4).long(), [3], [(2, 2)], [(8, 8)]),
     "base_anchors must be of a floating point type, got torch.int64"),
    (lambda: grid_anchors(torch.zeros(3, 4), [3], [(2, -1)], [(8, 8)]),
     "must not be negative, got 2, -1"),
    (lambda: grid_points([(2, 2)], [(8, 8)], stride_columns=3),
     "stride_columns must be 0, 1 or 2, got 3"),
    (lambda: grid_points([(2, 2)], [(8, 8)], dtype=torch.int64),
     "dtype must be a floating point type, got torch.int64"),
])
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
