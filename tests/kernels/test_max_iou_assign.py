"""Max-IoU assignment: chunks and kernels against the matrix, bit for bit."""

import itertools

import pytest
import torch

import fastdet
from fastdet.kernels.bbox_overlaps import bbox_overlaps
from fastdet.kernels.max_iou_assign import cpu, max_iou_assign
from fastdet.kernels.max_iou_assign import op as op_module
from fastdet.kernels.max_iou_assign.reference import (
    Rule,
    assign_wrt_overlaps,
    max_iou_assign_reference,
)

NAN = float("nan")

#: Every switch, each with each other.
RULES = list(itertools.product(
    (0.4, (0.1, 0.3)), (0.0, 0.3), (True, False), (True, False), (-1, 0.5), (True, False)))


def boxes(n, *lead, generator):
    """Boxes of whole numbers, so that overlaps tie; some without area."""
    low = torch.randint(0, 30, (*lead, n, 2), generator=generator).float()
    size = torch.randint(-1, 20, (*lead, n, 2), generator=generator)
    return torch.cat([low, low + size], -1)


def case(i, device="cpu", n=30, g=4, images=3):
    """Inputs and switches number ``i``, and the rule of the reference."""
    neg, min_pos, low_quality, every, iof, by_candidate = RULES[i % len(RULES)]
    generator = torch.Generator().manual_seed(i)
    lead = () if i % 3 == 0 else (images,)
    candidates = boxes(n, *lead, generator=generator)
    gts = boxes(g, images, generator=generator)
    gts[0, 1] = gts[0, 0]
    ignore = boxes(3, images, generator=generator)
    for every_other, tensor in ((2, candidates), (3, ignore), (5, gts)):
        if i % every_other == 0:
            tensor[..., -1, 1] = NAN
    inputs = {
        "boxes": candidates, "gts": gts, "counts": torch.tensor([g, 0, g - 1][:images]),
        "ignore": ignore, "ignore_counts": torch.tensor([3, 2, 0][:images]),
        "gt_labels": torch.randint(0, 9, (images, g), generator=generator),
        "valid": (torch.rand(images, n, generator=generator) < 0.8) if i % 4 == 0 else None}
    switches = {"pos_iou_thr": 0.5, "neg_iou_thr": neg, "min_pos_iou": min_pos,
                "match_low_quality": low_quality, "gt_max_assign_all": every,
                "ignore_iof_thr": iof, "ignore_wrt_candidates": by_candidate}
    low, high = neg if isinstance(neg, tuple) else (0.0, neg)
    rule = Rule(0.5, low, high, min_pos, low_quality, every, iof, by_candidate)
    inputs = {k: v if v is None else v.to(device) for k, v in inputs.items()}
    return inputs, switches, rule


def hold(inputs, switches, rule):
    """The operator against the matrix, image by image."""
    assigned, largest, labels = max_iou_assign(**inputs, **switches)
    for i, (count, regions) in enumerate(zip(inputs["counts"].tolist(),
                                             inputs["ignore_counts"].tolist())):
        candidates, valid = inputs["boxes"], inputs["valid"]
        want, overlap = max_iou_assign_reference(
            candidates if candidates.dim() == 2 else candidates[i], inputs["gts"][i, :count], rule,
            inputs["ignore"][i, :regions], None if valid is None else valid[i])
        assert assigned[i].tolist() == want.tolist()
        assert torch.equal(largest[i].nan_to_num(7), overlap.nan_to_num(7))
        label = [-1 if a < 1 else int(inputs["gt_labels"][i, a - 1]) for a in want.tolist()]
        assert labels[i].tolist() == label


@pytest.mark.parametrize("chunk", [cpu.CHUNK, 30])
def test_chunks_equal_the_matrix(monkeypatch, chunk):
    monkeypatch.setattr(cpu, "CHUNK", chunk)
    monkeypatch.setattr(cpu, "LEAST", 1)
    for i in range(0, len(RULES), 3):
        hold(*case(i))


def test_rule_by_hand():
    overlaps = torch.tensor([[0.45, 0.45, 0.2, 0.0, -1.0], [0.45, 0.0, 0.7, 0.41, -1.0]])
    rule = Rule(0.5, 0.0, 0.4, 0.3, True, True, -1, True)
    assigned, largest = assign_wrt_overlaps(overlaps, rule)
    assert assigned.tolist() == [1, 1, 2, 0 - 1, -1]
    assert largest.tolist() == overlaps.amax(0).tolist()
    first = rule._replace(gt_max_assign_all=False)
    assert assign_wrt_overlaps(overlaps, first)[0].tolist() == [1, -1, 2, -1, -1]
    assert assign_wrt_overlaps(overlaps, rule._replace(min_pos_iou=0.5))[0].tolist() == [
        -1, -1, 2, -1, -1]


def test_many_gts_take_no_matrix():
    generator = torch.Generator().manual_seed(0)
    candidates, gts = boxes(2100, generator=generator), boxes(2048, 1, generator=generator)
    allocated = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            allocated.append(out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    rule = Rule(0.5, 0, 0.4, 0, True, True, -1, True)
    with Watch():
        got = cpu.max_iou_assign_chunked(candidates, gts[0], rule)
    assert max(allocated) <= 3 * 2048 * cpu.LEAST < 2100 * 2048 / 2
    want = max_iou_assign_reference(candidates, gts[0], rule)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])


@pytest.mark.parametrize(("change", "text"), [
    ({"gts": torch.zeros(3, 4)}, r"expected boxes \[B, N, 4\] or \[N, 4\] and gts \[B, G, 4\]"),
    ({"counts": torch.zeros(2)}, r"counts must be \[3\], not floating-point"),
    ({"gt_labels": torch.zeros(3, 9, dtype=torch.long)}, r"gt_labels must be \[3, 4\]"),
    ({"valid": torch.ones(3, 30, dtype=torch.long)}, "valid must be bool"),
    ({"ignore": torch.zeros(2, 3, 4)}, r"ignore must be \[3, I, 4\]"),
    ({"gts": torch.zeros(3, 4, 4, dtype=torch.float64)}, "of one floating-point type"),
])
def test_bad_input(change, text):
    inputs, switches, _ = case(1)
    with pytest.raises(ValueError, match=text):
        max_iou_assign(**{**inputs, **change}, **switches)


def test_compiles_in_one_graph():
    inputs, switches, _ = case(8)
    torch._dynamo.reset()
    compiled = torch.compile(max_iou_assign, fullgraph=True, backend="aot_eager")
    for mine, want in zip(compiled(**inputs, **switches), max_iou_assign(**inputs, **switches)):
        assert torch.equal(mine.nan_to_num(7), want.nan_to_num(7))


@pytest.mark.kernel
@pytest.mark.usefixtures("poison")
@pytest.mark.parametrize("i", [0, 5, 11, 18, 25, 36, 46, 55, 63])
def test_kernel(kernel_device, i):
    hold(*case(i, kernel_device))


@pytest.mark.kernel
def test_kernel_over_several_programs(kernel_device):
    hold(*case(1, kernel_device, n=op_module.BLOCK + 30))
    inputs, switches, _ = case(4, kernel_device)
    empty = {**inputs, "boxes": inputs["boxes"][:, :0], "valid": inputs["valid"][:, :0]}
    assert max_iou_assign(**empty, **switches)[0].shape == (3, 0)
    none = {**inputs, "gts": inputs["gts"][:, :0], "counts": inputs["counts"] * 0,
            "gt_labels": inputs["gt_labels"][:, :0]}
    assigned, largest, labels = max_iou_assign(**none, **switches)
    assert torch.equal(assigned, torch.where(inputs["valid"], 0, -1))
    assert torch.equal(largest, assigned.float())
    assert labels.eq(-1).all()


@pytest.mark.kernel
def test_kernel_of_half_types_compares_in_float32(kernel_device):
    inputs, switches, _ = case(1, kernel_device)
    want = max_iou_assign(**inputs, **switches)
    half = {k: v.half() if v is not None and v.is_floating_point() else v
            for k, v in inputs.items()}  # whole numbers: nothing is rounded
    got = max_iou_assign(**half, **switches)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1].half())


@pytest.mark.kernel
def test_kernel_refuses_what_it_cannot(kernel_device):
    inputs, switches, _ = case(1, kernel_device)
    wide = {k: v.double() if k in ("boxes", "gts") else v for k, v in inputs.items()}
    with pytest.raises(fastdet.BackendError, match=r"not torch\.float64"):
        max_iou_assign(**wide, **switches)


@pytest.mark.kernel
def test_opcheck(kernel_device):
    inputs, _, _ = case(4, kernel_device)
    torch.library.opcheck(op_module._assign.traced, (
        inputs["boxes"], inputs["gts"], inputs["counts"], inputs["gt_labels"], inputs["ignore"],
        inputs["ignore_counts"], inputs["valid"], [0.5, 0.0, 0.4, 0.0, 0.5], True, True, True,
        True), test_utils=("test_schema", "test_faketensor"))


# --- bbox_overlaps -----------------------------------------------------------------------------

def by_hand(a, b, mode, eps):
    """The overlap of two boxes in Python's floats."""
    area1, area2 = ((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
    inter = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = max(area1 if mode == "iof" else area1 + area2 - inter, eps)
    if mode != "giou":
        return inter / union
    hull = max((max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1])), eps)
    return inter / union - (hull - union) / hull


@pytest.mark.parametrize("mode", ["iou", "iof", "giou"])
@pytest.mark.parametrize("eps", [1e-6, 1.0])
def test_overlaps_by_hand(mode, eps):
    generator = torch.Generator().manual_seed(1)
    a, b = (boxes(6, generator=generator).double() for _ in range(2))
    b = torch.maximum(b, b[:, :2].repeat(1, 2))  # none turned around: the hull is then a hull
    a = torch.maximum(a, a[:, :2].repeat(1, 2))
    want = torch.tensor([[by_hand(x, y, mode, eps) for y in b.tolist()] for x in a.tolist()],
                        dtype=torch.float64)
    torch.testing.assert_close(bbox_overlaps(a, b, mode, eps=eps), want)
    torch.testing.assert_close(bbox_overlaps(a, b, mode, True, eps), want.diagonal())
    stacked = bbox_overlaps(a.view(2, 3, 4), b.view(2, 3, 4), mode, eps=eps)
    torch.testing.assert_close(stacked[1], want[3:, 3:])


@pytest.mark.parametrize("mode", ["iou", "iof", "giou"])
def test_overlaps_gradcheck(mode):
    a = torch.tensor([[0, 0, 10, 9.0], [3, 4, 15, 13]], dtype=torch.float64, requires_grad=True)
    b = torch.tensor([[2, 1, 11, 12.0], [1, 2, 7, 8]], dtype=torch.float64, requires_grad=True)
    for aligned in (False, True):
        assert torch.autograd.gradcheck(
            lambda x, y, aligned=aligned: bbox_overlaps(x, y, mode, aligned), (a, b))


def test_overlaps_of_nothing_and_nan():
    none, some = torch.zeros(0, 4), torch.tensor([[0, 0, 4, 4.0], [NAN, 0, 4, 4]])
    assert bbox_overlaps(none, some).shape == (0, 2)
    assert bbox_overlaps(some[None, :0], some[None]).shape == (1, 0, 2)
    assert bbox_overlaps(none, none, is_aligned=True).shape == (0,)
    assert bbox_overlaps(some, some).isnan().tolist() == [[False, True], [True, True]]


@pytest.mark.parametrize(("a", "b", "options", "text"), [
    ((3, 5), (2, 4), {}, r"bboxes1 must be \(..., N, 4\)"),
    ((3, 4), (2, 4), {"mode": "ciou"}, "mode must be 'iou', 'iof' or 'giou'"),
    ((3, 4), (2, 4), {"is_aligned": True}, "aligned boxes must be as many, got 3 and 2"),
    ((1, 3, 4), (2, 3, 4), {}, "axes before the last two must be equal"),
])
def test_overlaps_bad_input(a, b, options, text):
    with pytest.raises(ValueError, match=text):
        bbox_overlaps(torch.zeros(a), torch.zeros(b), **options)
