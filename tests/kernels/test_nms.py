"""NMS: the definition against a loop of its own, the CPU path and the kernels against both."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdet
from fastdet.kernels.nms import batched_nms_padded, cpu, op
from fastdet.kernels.nms.reference import nms_reference

NAN, INF = float("nan"), float("inf")


def make_boxes(n, size=100.0, seed=0, smallest=-2.0):
    """Random boxes, some of which end before they begin."""
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=random) * size
    return torch.cat([corner, corner + smallest + torch.rand(n, 2, generator=random) * 40], 1)


def plain_loop(boxes, groups, threshold, offset):
    """Greedy suppression in Python numbers."""
    kept = []
    for i, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
        for j in kept:
            u1, v1, u2, v2 = boxes[j].tolist()
            inter = (max(0, min(x2, u2) - max(x1, u1) + offset)
                     * max(0, min(y2, v2) - max(y1, v1) + offset))
            union = ((x2 - x1 + offset) * (y2 - y1 + offset)
                     + (u2 - u1 + offset) * (v2 - v1 + offset) - inter)
            if groups[i] == groups[j] and union != 0 and inter / union > threshold:
                break
        else:
            kept.append(i)
    return kept


def expected(boxes, scores, groups, threshold, max_num=-1, score_threshold=0.0, offset=0,
             valid=None):
    """Indices of kept boxes, by the reference."""
    takes_part = torch.ones(len(boxes), dtype=torch.bool) if valid is None else valid
    if score_threshold > 0:
        takes_part = takes_part & (scores > score_threshold)
    index = takes_part.nonzero().view(-1)
    index = index[scores[index].sort(descending=True, stable=True).indices]
    groups = torch.zeros_like(index) if groups is None else groups[index]
    kept = index[nms_reference(boxes[index], groups, threshold, offset)]
    return (kept[:max_num] if max_num > 0 else kept).tolist()


def check(boxes, scores, groups, threshold, **options):
    keep, count = batched_nms_padded(boxes, scores, groups, threshold, **options)
    want = expected(boxes.cpu(), scores.cpu(), None if groups is None else groups.cpu(), threshold,
                    **{k: v.cpu() if k == "valid" else v for k, v in options.items()})
    max_num = options.get("max_num", -1)
    assert len(keep) == (min(max_num, len(boxes)) if max_num > 0 else len(boxes))
    assert keep[:count].tolist() == want
    assert not keep[count:].any()
    return want


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("groups", [1, 4])
def test_reference_is_the_plain_loop(offset, groups):
    boxes, group = make_boxes(60, 30.0).double(), torch.arange(60) % groups
    keep = nms_reference(boxes, group, 0.3, offset)
    assert keep.nonzero().view(-1).tolist() == plain_loop(boxes, group, 0.3, offset)
    assert 5 < keep.sum() < 55


@settings(max_examples=25)
@given(n=st.integers(0, 300), size=st.sampled_from([5.0, 60.0, 2000.0]),
       groups=st.sampled_from([1, 3, 90]), threshold=st.sampled_from([-0.5, 0.0, 0.3, 0.7]),
       max_num=st.sampled_from([-1, 0, 7]), offset=st.sampled_from([0, 1]),
       seed=st.integers(0, 1000))
def test_cpu_path(n, size, groups, threshold, max_num, offset, seed):
    boxes = make_boxes(n, size, seed)
    random = torch.Generator().manual_seed(seed)
    scores = (torch.rand(n, generator=random) * 20).round() / 20  # many are equal
    group = None if groups == 1 else torch.randint(groups, (n,), generator=random)
    check(boxes, scores, group, threshold, max_num=max_num, offset=offset, score_threshold=0.2)


@pytest.mark.parametrize(("size", "way"), [(3000.0, True), (60.0, False)])
def test_cpu_path_chooses_its_way(size, way, monkeypatch):
    calls, by_place = [], cpu._by_place
    monkeypatch.setattr(cpu, "_by_place", lambda *a: calls.append(a) or by_place(*a))
    check(make_boxes(1500, size), torch.rand(1500), None, 0.4)
    assert bool(calls) == way


def unusual():
    """Boxes with NaN, infinite and reversed sides among usual ones, with equal and NaN scores."""
    boxes = make_boxes(40, 30.0)
    boxes[3, 0], boxes[4, 3], boxes[5, 2], boxes[6, 1] = NAN, NAN, INF, -INF
    boxes[7] = torch.tensor([20.0, 20.0, 5.0, 5.0])
    boxes[8] = boxes[9] = boxes[10]
    boxes[11, 2:] = boxes[11, :2]
    boxes[12] = torch.tensor([-INF, -INF, INF, INF])
    scores = torch.arange(40) % 7 / 7.0
    scores[[2, 8]] = NAN
    return boxes, scores


def test_unusual_boxes_and_scores():
    boxes, scores = unusual()
    kept = check(boxes, scores, None, 0.3)
    assert set(kept) >= {3, 4, 5, 6, 12}  # an area of NaN neither suppresses nor is suppressed
    assert kept[0] == 2  # NaN is the highest score
    assert 2 not in check(boxes, scores, None, 0.3, score_threshold=0.1)


def test_an_overlap_of_exactly_the_threshold_stays():
    boxes = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 1]])
    scores = torch.tensor([0.9, 0.8])
    assert check(boxes, scores, None, 0.5) == [0, 1]
    assert check(boxes, scores, None, 0.4999) == [0]


def test_sizes_of_the_result():
    boxes, scores = make_boxes(5, 1000.0, smallest=1.0), torch.rand(5)
    for max_num, size in ((-1, 5), (0, 5), (3, 3), (9, 5)):
        keep, count = batched_nms_padded(boxes, scores, None, 0.5, max_num)
        assert (len(keep), int(count)) == (size, size)
    keep, count = batched_nms_padded(boxes[:0], scores[:0], None, 0.5)
    assert (keep.tolist(), int(count)) == ([], 0)
    keep, count = batched_nms_padded(boxes, scores, None, 0.5,
                                     valid=torch.zeros(5, dtype=torch.bool))
    assert (keep.tolist(), int(count)) == ([0] * 5, 0)


def test_images_of_a_batch_are_apart():
    boxes = torch.stack([make_boxes(80, seed=i) for i in range(3)])
    scores, groups = torch.rand(3, 80), torch.randint(3, (3, 80))
    keep, count = batched_nms_padded(boxes, scores, groups, 0.3, 20)
    assert keep.shape == (3, 20)
    for i in range(3):
        alone = batched_nms_padded(boxes[i], scores[i], groups[i], 0.3, 20)
        assert torch.equal(keep[i], alone[0])
        assert count[i] == alone[1]


@pytest.mark.parametrize(("change", "text"), [
    ({"boxes": torch.zeros(4, 5)}, r"boxes must be floating-point \[N, 4\] or"),
    ({"boxes": torch.zeros(4, 4, dtype=torch.int64)}, "got torch.int64"),
    ({"scores": torch.zeros(3)}, r"scores must be \[4\] on cpu for boxes \[4, 4\], got \[3\]"),
    ({"groups": torch.zeros(4, 1)}, r"groups must be \[4\]"),
    ({"offset": 2}, "offset must be 0 or 1, got 2"),
])
def test_bad_input(change, text):
    arguments = {"boxes": torch.zeros(4, 4), "scores": torch.zeros(4), "groups": None,
                 "iou_threshold": 0.5, **change}
    with pytest.raises(ValueError, match=text):
        batched_nms_padded(**arguments)


def test_compiles_whole():
    def run(boxes, scores, groups):
        keep, count = batched_nms_padded(boxes, scores, groups, 0.3, 10, score_threshold=0.1)
        return boxes[keep], count

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    for n in (40, 70):
        inputs = make_boxes(n, seed=n), torch.rand(n), torch.randint(3, (n,))
        for got, want in zip(compiled(*inputs), run(*inputs)):
            assert torch.equal(got, want)


def test_opcheck_of_the_torch_path():
    boxes, rank = make_boxes(9)[None], torch.arange(9)[None]
    torch.library.opcheck(op._torch.traced, (boxes, torch.zeros_like(rank), rank, 0.5, 0, 0))


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize(("n", "size", "groups", "dtype", "options"), [
    (100, 40.0, 1, torch.float32, {}),
    (100, 40.0, 3, torch.float32, {"offset": 1, "max_num": 9}),
    (70, 20.0, 30, torch.bfloat16, {"score_threshold": 0.3}),
    (129, 20.0, 2, torch.float16, {"max_num": 5, "score_threshold": 0.1}),
    (1, 60.0, 1, torch.float32, {}),
    (0, 60.0, 1, torch.float32, {}),
])
def test_kernel(kernel_device, n, size, groups, dtype, options):
    boxes = make_boxes(n, size).to(kernel_device, dtype)
    scores = ((torch.rand(n) * 40).round() / 40).to(kernel_device, dtype)
    group = None if groups == 1 else torch.randint(groups, (n,)).to(kernel_device)
    kept = check(boxes, scores, group, 0.4, **options)
    assert n < 2 or len(kept) < n


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
def test_kernel_of_a_batch_with_places_left_free(kernel_device):
    boxes = torch.stack([make_boxes(70, 40.0, seed=i) for i in range(2)]).to(kernel_device)
    scores, groups = torch.rand(2, 70).to(kernel_device), torch.arange(70) % 2
    groups = groups.expand(2, 70).to(kernel_device)
    valid = torch.rand(2, 70).to(kernel_device) > 0.3
    keep, count = batched_nms_padded(boxes, scores, groups, 0.3, 30, valid=valid)
    for i in range(2):
        want = expected(boxes[i].cpu(), scores[i].cpu(), groups[i].cpu(), 0.3, 30,
                        valid=valid[i].cpu())
        assert keep[i, :count[i]].tolist() == want


@pytest.mark.kernel
def test_kernel_of_unusual_boxes_and_scores(kernel_device):
    boxes, scores = (one.to(kernel_device) for one in unusual())
    check(boxes, scores, None, 0.3)
    check(boxes, scores, None, 0.3, score_threshold=0.1, offset=1)
    third = torch.tensor([[0.0, 0, 3, 1], [0, 0, 1, 1]], device=kernel_device)
    for threshold, kept in ((1 / 3, 2), (0.3333, 1)):  # 1 / 3 of fp32 and of the kernel agree
        assert len(check(third, scores[:2], None, threshold)) == kept


@pytest.mark.kernel
def test_kernel_refuses_what_it_cannot(kernel_device):
    with pytest.raises(fastdet.BackendError, match=r"not float64"):
        batched_nms_padded(make_boxes(3).double().to(kernel_device),
                           torch.rand(3).to(kernel_device), None, 0.5)
    assert "at most 65536 boxes" in op.can_run_nms(torch.empty(70000, 4))


@pytest.mark.kernel
def test_opcheck(kernel_device):
    boxes, rank = make_boxes(9)[None].to(kernel_device), torch.arange(9)[None].to(kernel_device)
    torch.library.opcheck(op._triton.traced, (boxes, torch.zeros_like(rank), rank, 0.5, 0, 0))
