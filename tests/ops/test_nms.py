"""mmcv's NMS functions: order of results, switches of the config, soft suppression by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdet.ops import batched_nms, nms, nms_match, soft_nms
from fastdet.ops.nms import NMSop, SoftNMSop

BOXES = torch.tensor([[0.0, 0, 10, 10], [1, 1, 11, 11], [20, 20, 30, 30], [0, 0, 10, 9],
                      [21, 20, 31, 30], [50, 50, 60, 60]])
SCORES = torch.tensor([0.5, 0.9, 0.3, 0.8, 0.6, 0.1])


def many(n=60, seed=0):
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(n, 2, generator=random) * 60
    boxes = torch.cat([corner, corner + 5 + torch.rand(n, 2, generator=random) * 30], 1)
    return (boxes, torch.rand(n, generator=random),
            torch.randint(4, (n,), generator=random))


def test_nms():
    dets, keep = nms(BOXES, SCORES, 0.5)
    assert keep.tolist() == [1, 4, 5]
    assert torch.equal(dets, torch.cat([BOXES[keep], SCORES[keep, None]], 1))
    assert nms(BOXES, SCORES, 0.5, max_num=2)[1].tolist() == [1, 4]
    assert nms(BOXES, SCORES, 0.5, score_threshold=0.3)[1].tolist() == [1, 4]
    assert nms(BOXES[:0], SCORES[:0], 0.5)[0].shape == (0, 5)
    assert NMSop.apply(BOXES, SCORES, 0.5, 0, 0.0, -1).tolist() == [1, 4, 5]


def test_nms_counts_the_edge_with_an_offset():
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 4]])
    assert nms(boxes, SCORES[:2], 0.46)[1].tolist() == [1, 0]  # 36 / 81
    assert nms(boxes, SCORES[:2], 0.46, offset=1)[1].tolist() == [1]  # 50 / 100


def test_nms_takes_arrays():
    dets, keep = nms(BOXES.numpy(), SCORES.numpy(), 0.5)
    assert isinstance(dets, np.ndarray)
    assert dets.dtype == np.float32
    assert keep.tolist() == [1, 4, 5]
    dets, keep = soft_nms(BOXES.numpy().astype(np.float64), SCORES.numpy().astype(np.float64))
    assert dets.dtype == np.float64
    assert keep.dtype == np.int64


def test_gradients_reach_boxes_and_scores():
    boxes, scores = BOXES.clone().requires_grad_(), SCORES.clone().requires_grad_()
    nms(boxes, scores, 0.5)[0].sum().backward()
    assert scores.grad.tolist() == [0, 1, 0, 0, 1, 1]
    assert boxes.grad.sum() == 12


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda: nms([[0, 0, 1, 1]], [1.0], 0.5), TypeError, "tensors or arrays, got list and list"),
    (lambda: nms(BOXES, SCORES[:2], 0.5), ValueError, r"got \[6, 4\] and \[2\]"),
    (lambda: nms(BOXES, SCORES, 0.5, offset=2), ValueError, "offset must be 0 or 1"),
    (lambda: soft_nms(BOXES, SCORES, method="hard"), ValueError, "one of naive, linear, gaussian"),
    (lambda: soft_nms(BOXES, SCORES, offset=3), ValueError, "offset must be 0 or 1"),
    (lambda: batched_nms(BOXES, SCORES, SCORES, {"type": "box"}), ValueError, "got 'box'"),
    (lambda: batched_nms(BOXES, SCORES, SCORES, {"iou_thr": 0.5}), TypeError, "got iou_thr"),
    (lambda: batched_nms(BOXES, SCORES, SCORES, {}), TypeError, "needs iou_threshold"),
    (lambda: batched_nms(BOXES, SCORES, SCORES[:1], {"iou_threshold": 0.5}), ValueError,
     r"idxs must be \[6\]"),
    (lambda: nms_match(BOXES, 0.5), ValueError, r"dets must be \[N, 5\], got \[6, 4\]"),
])
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_batched_nms_is_one_nms_a_class():
    boxes, scores, classes = many()
    cfg = {"type": "nms", "iou_threshold": 0.4}
    dets, keep = batched_nms(boxes, scores, classes, cfg)
    apart = [torch.nonzero(classes == c).view(-1) for c in range(4)]
    want = torch.cat([mine[nms(boxes[mine], scores[mine], 0.4)[1]] for mine in apart])
    assert torch.equal(keep, want[scores[want].sort(descending=True, stable=True).indices])
    assert torch.equal(dets[:, :4], boxes[keep])
    assert torch.equal(batched_nms(boxes, scores, classes, {**cfg, "max_num": 7})[1], keep[:7])
    assert cfg == {"type": "nms", "iou_threshold": 0.4}  # a config is not used up
    together = nms(boxes, scores, 0.4)[1]
    for c, argument in (({"class_agnostic": True}, False), ({}, True)):
        assert torch.equal(batched_nms(boxes, scores, classes, {**cfg, **c}, argument)[1], together)
    # Many boxes are taken class by class, whatever is said of classes.
    split = batched_nms(boxes, scores, classes, {**cfg, "split_thr": 60}, class_agnostic=True)
    assert torch.equal(split[1], keep)


def test_batched_nms_moves_no_boxes():
    boxes = torch.tensor([[-50.0, 0, -40, 10], [-50, 0, -40, 10]]) + 2.0**24
    _, keep = batched_nms(boxes, SCORES[:2], torch.tensor([0, 10**12]), {"iou_threshold": 0.5})
    assert keep.tolist() == [1, 0]


def test_batched_nms_without_a_config_sorts():
    dets, keep = batched_nms(BOXES, SCORES, SCORES, None)
    assert keep.tolist() == [1, 3, 4, 0, 2, 5]
    assert dets[:, 4].tolist() == SCORES[keep].tolist()


@pytest.mark.parametrize("kind", ["nms", "soft_nms"])
def test_batched_nms_of_nothing(kind):
    for split in (0, 10):
        cfg = {"type": kind, "iou_threshold": 0.5, "split_thr": split}
        dets, keep = batched_nms(BOXES[:0], SCORES[:0], SCORES[:0].long(), cfg)
        assert (dets.shape, keep.shape) == ((0, 5), (0,))


def plain_soft_nms(boxes, scores, groups, threshold, sigma, min_score, method):
    """Soft suppression in Python numbers, boxes changing places as in mmcv."""
    left = [[*box, score, i] for i, (box, score) in enumerate(zip(boxes.tolist(),
                                                                  scores.tolist()))]
    out = []
    while left:
        best = max(range(len(left)), key=lambda i: (left[i][4], -i))
        left[0], left[best] = left[best], left[0]
        top, *left = left
        out.append((top[5], top[4]))
        at = 0
        while at < len(left):
            box = left[at]
            inter = (max(0, min(top[2], box[2]) - max(top[0], box[0]))
                     * max(0, min(top[3], box[3]) - max(top[1], box[1])))
            union = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (top, box)) - inter
            iou = inter / union if groups[top[5]] == groups[box[5]] else 0
            if method == "gaussian":
                box[4] *= float(np.exp(-iou * iou / sigma))
            elif iou >= threshold and iou:
                box[4] *= 1 - iou if method == "linear" else 0
            if box[4] < min_score:
                left[at] = left[-1]
                left.pop()
            else:
                at += 1
    return out


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), n=st.integers(0, 40), levels=st.sampled_from([3, 1000]),
       method=st.sampled_from(["naive", "linear", "gaussian"]), min_score=st.sampled_from([0, 0.3]))
def test_soft_nms_keeps_mmcvs_order(seed, n, levels, method, min_score):
    boxes, scores, classes = many(n, seed)
    boxes, scores = boxes.double(), (scores.double() * levels).round() / levels
    one = torch.zeros_like(classes)
    want = plain_soft_nms(boxes, scores, one, 0.3, 0.5, min_score, method)
    dets, keep = soft_nms(boxes, scores, method=method, min_score=min_score)
    assert keep.tolist() == [i for i, _ in want]
    torch.testing.assert_close(dets[:, 4].tolist(), [score for _, score in want])
    cfg = {"type": "soft_nms", "method": method, "min_score": min_score}
    want = plain_soft_nms(boxes, scores, classes, 0.3, 0.5, min_score, method)
    assert batched_nms(boxes, scores, classes, cfg)[1].tolist() == [i for i, _ in want]


def test_soft_nms_by_number_and_half_types():
    dets, keep = SoftNMSop.apply(BOXES, SCORES, 0.3, 0.5, 1e-3, 1, 0)
    want = soft_nms(BOXES, SCORES)
    assert torch.equal(dets, want[0])
    assert torch.equal(keep, want[1])
    assert soft_nms(BOXES.half(), SCORES.half())[0].dtype == torch.float16


def test_soft_nms_of_nan_scores():
    nan = float("nan")  # the highest score in front, else the lowest, and never below a bound
    assert soft_nms(BOXES[:3], torch.tensor([nan, 0.2, 0.5]))[1].tolist() == [0, 2, 1]
    assert soft_nms(BOXES[:3], torch.tensor([0.2, nan, 0.5]))[1].tolist() == [2, 1, 0]


def test_soft_nms_split():
    boxes, scores, classes = many()
    cfg = {"type": "soft_nms", "iou_threshold": 0.4, "min_score": 0.2}
    dets, keep = batched_nms(boxes, scores, classes, {**cfg, "split_thr": 10, "max_num": 9})
    found = []
    for c in range(4):
        mine = (classes == c).nonzero().view(-1)
        part, index = soft_nms(boxes[mine], scores[mine], 0.4, min_score=0.2)
        found += [(-float(s), int(i)) for s, i in zip(part[:, 4], mine[index])]
    assert keep.tolist() == [i for _, i in sorted(found)[:9]]
    assert dets[:, 4].tolist() == [-s for s, _ in sorted(found)[:9]]


def test_nms_match():
    dets = torch.cat([BOXES, SCORES[:, None]], 1)
    groups = nms_match(dets, 0.5)
    assert [group.tolist() for group in groups] == [[1, 3, 0], [4, 2], [5]]
    assert groups[0].dtype == torch.int64
    arrays = nms_match(dets.numpy(), 0.5)
    assert [array.tolist() for array in arrays] == [[1, 3, 0], [4, 2], [5]]
    assert isinstance(arrays[0], np.ndarray)
    assert nms_match(dets[:0], 0.5) == []
    equal = torch.tensor([[0.0, 0, 2, 2, 0.9], [0, 0, 2, 1, 0.8]])
    assert len(nms_match(equal, 0.5)) == 1  # from the threshold on, where nms wants more than it
