"""Valid flags: bit for bit the reference, which is bit for bit a loop over cells."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from fastdet.kernels.grid_priors import level_rows, split_levels
from fastdet.kernels.launch import record_launches
from fastdet.kernels.valid_flags import can_run_valid_flags, valid_flags
from fastdet.kernels.valid_flags.op import _flags_op
from fastdet.kernels.valid_flags.reference import valid_flags_reference

SIZES, COUNTS = [(13, 21), (7, 11), (0, 4), (4, 6), (1, 1)], [3, 9, 2, 1, 4]


def shrunk(sizes, image):
    """Valid sizes that differ between images and levels, from nothing to everything."""
    return [(h * (image % 4) // 3, max(w - image, 0)) for h, w in sizes]


@pytest.mark.kernel
@pytest.mark.parametrize("images", [0, 1, 2, 11])
def test_kernel_equals_reference(images, kernel_device, poison):
    valid = [shrunk(SIZES, image) for image in range(images)]
    got = valid_flags(valid, COUNTS, SIZES, device=kernel_device)
    assert got.dtype == torch.bool
    assert torch.equal(
        got.cpu(), valid_flags_reference(valid, COUNTS, SIZES, torch.device("cpu")))


@pytest.mark.kernel
def test_more_levels_than_a_launch_takes(kernel_device, poison):
    sizes, counts = [(i + 1, 3) for i in range(9)], [2] * 9
    valid = [shrunk(sizes, 1), shrunk(sizes, 2)]
    got = valid_flags(valid, counts, sizes, device=kernel_device)
    assert torch.equal(
        got.cpu(), valid_flags_reference(valid, counts, sizes, torch.device("cpu")))


@pytest.mark.kernel
def test_one_launch_for_a_batch(kernel_device):
    with record_launches((9, 0)) as recorded:
        valid_flags([shrunk(SIZES, image) for image in range(8)], COUNTS, SIZES,
                    device=kernel_device)
        assert len(recorded) == 1
        valid_flags([SIZES] * 8, COUNTS, SIZES, device=kernel_device)  # a fill
    assert len(recorded) == 1


@pytest.mark.kernel
def test_opcheck_kernel(kernel_device):
    torch.library.opcheck(
        _flags_op, ([2, 3, 1, 1], 1, [3, 1], [4, 5, 2, 2], kernel_device),
        test_utils=("test_schema", "test_faketensor"))


@pytest.mark.gpu
@pytest.mark.kernel
def test_captured_in_a_cuda_graph(kernel_device):
    valid = [shrunk(SIZES, 1), shrunk(SIZES, 2)]
    want = valid_flags(valid, COUNTS, SIZES, device=kernel_device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = valid_flags(valid, COUNTS, SIZES, device=kernel_device)
    got.logical_not_()
    graph.replay()
    assert torch.equal(got, want)


def test_reference_equals_loop():
    valid = [shrunk(SIZES, image) for image in range(3)]
    want = [[y < valid_h and x < valid_w
             for (h, w), (valid_h, valid_w), a in zip(SIZES, image, COUNTS)
             for y in range(h) for x in range(w) for _ in range(a)] for image in valid]
    assert valid_flags(valid, COUNTS, SIZES).tolist() == want


@given(st.data())
def test_flag_counts(data):
    sizes = data.draw(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1))
    counts = [data.draw(st.integers(1, 4)) for _ in sizes]
    valid = [(data.draw(st.integers(0, h)), data.draw(st.integers(0, w))) for h, w in sizes]
    flags = valid_flags([valid], counts, sizes)
    for level, (h, w), a in zip(split_levels(flags[0], level_rows(sizes, counts)), valid, counts):
        assert int(level.sum()) == h * w * a


def test_all_valid_is_all_true():
    assert valid_flags([SIZES] * 3, COUNTS, SIZES).all()


def test_fake_tensors():
    with FakeTensorMode():
        flags = valid_flags([[(1, 1)], [(2, 2)]], [3], [(2, 2)])
    assert (flags.shape, flags.dtype) == ((2, 12), torch.bool)


def test_can_run_says_why_not():
    assert can_run_valid_flags(COUNTS, SIZES) is None
    assert "32768" in can_run_valid_flags([1], [(1, 32768)])


@pytest.mark.parametrize(("arguments", "message"), [
    (([[(1, 1)]], [1, 1], [(2, 2)]), "counts has 2 levels, but there are 1 sizes"),
    (([[(1, 1)] * 2], [1], [(2, 2)]), "valid_sizes has 2 levels, but there are 1 sizes"),
    (([[(3, 1)]], [1], [(2, 2)]), r"must lie within its feature map's \(2, 2\), got \(3, 1\)"),
    (([[(1, -1)]], [1], [(2, 2)]), r"must lie within its feature map's \(2, 2\), got \(1, -1\)"),
])
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        valid_flags(*arguments)
