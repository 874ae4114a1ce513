"""AssignResult, MaxIoUAssigner and BboxOverlaps2D: what no record reaches."""

import pytest
import torch

from fastdet.core import (
    AssignResult,
    BaseAssigner,
    BboxOverlaps2D,
    MaxIoUAssigner,
    bbox_overlaps,
    build_assigner,
    build_iou_calculator,
)

BOXES = torch.tensor([[0, 0, 10, 10.0], [0, 0, 10, 5], [20, 20, 30, 30], [50, 50, 60, 60]])
GTS = torch.tensor([[0, 0, 10, 9.0], [21, 20, 30, 30]])
LABELS = torch.tensor([7, 8])


def test_assign_result():
    result = AssignResult(2, torch.tensor([0, 2, -1]), torch.tensor([0.1, 0.9, 0.3]),
                          torch.tensor([-1, 8, -1]))
    assert repr(result) == ("<AssignResult(num_gts=2, gt_inds.shape=(3,), "
                            "max_overlaps.shape=(3,), labels.shape=(3,))>")
    assert repr(AssignResult(0, torch.zeros(2), None)) == (
        "<AssignResult(num_gts=0, gt_inds.shape=(2,), max_overlaps=None, labels=None)>")
    result.set_extra_property("more", 3)
    assert result.get_extra_property("more") == 3
    assert result.get_extra_property("less") is None
    with pytest.raises(KeyError, match="'more' already"):
        result.set_extra_property("more", 4)
    result.add_gt_(LABELS)
    assert result.gt_inds.tolist() == [1, 2, 0, 2, -1]
    assert result.max_overlaps[:2].tolist() == [1, 1]
    assert result.labels.tolist() == [7, 8, -1, 8, -1]
    assert result.num_preds == 5
    assert set(result.info) == {"num_gts", "num_preds", "gt_inds", "max_overlaps", "labels",
                                "more"}


def test_random_assign_result():
    for seed in range(20):
        result = AssignResult.random(rng=seed, p_use_label=1)
        assert result.gt_inds.ge(-1).all()
        assert len(result.gt_inds) == len(result.max_overlaps) == len(result.labels)
        positive = result.gt_inds[result.gt_inds > 0]
        assert len(positive.unique()) == len(positive)
        assert positive.le(result.num_gts).all()
    assert AssignResult.random(num_preds=4, num_gts=0).gt_inds.tolist() == [0] * 4


def same(a, b):
    return (torch.equal(a.gt_inds, b.gt_inds) and torch.equal(a.max_overlaps, b.max_overlaps)
            and (a.labels is b.labels is None or torch.equal(a.labels, b.labels)))


class OwnOverlaps(BboxOverlaps2D):
    """A user's calculator, which the operator does not know."""


@pytest.mark.parametrize("options", [
    {}, {"ignore_iof_thr": 0.5}, {"ignore_iof_thr": 0.5, "ignore_wrt_candidates": False},
    {"gpu_assign_thr": 1}])
def test_a_calculator_of_ones_own_gives_the_same(options):
    ours = MaxIoUAssigner(0.7, 0.3, 0.1, **options)
    own = MaxIoUAssigner(0.7, 0.3, 0.1, iou_calculator={"type": OwnOverlaps}, **options)
    ignore = torch.tensor([[0, 0, 10, 7.0]])
    for gts, labels in ((GTS, LABELS), (GTS, None), (GTS[:0], LABELS[:0])):
        assert same(ours.assign(BOXES, gts, ignore, labels), own.assign(BOXES, gts, ignore, labels))
    half = MaxIoUAssigner(0.7, 0.3, iou_calculator={"type": "BboxOverlaps2D", "dtype": "fp16"})
    assert half.assign(BOXES, GTS, None, LABELS).labels.tolist() == [7, -1, 8, -1]


def test_a_subclass_may_assign_by_the_matrix():
    class Mine(MaxIoUAssigner):
        def assign_wrt_overlaps(self, overlaps, gt_labels=None):
            return AssignResult(len(overlaps), overlaps.new_ones(overlaps.shape[1]), None)

    assert Mine(0.5, 0.4).assign(BOXES, GTS).gt_inds.eq(1).all()
    with pytest.raises(TypeError, match="abstract"):
        BaseAssigner()


def test_build():
    assigner = build_assigner({"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.5})
    result = assigner.assign(BOXES, GTS, gt_labels=LABELS)
    assert result.labels.tolist() == [7, 7, 8, -1]
    assert result.num_gts == 2
    assert repr(build_iou_calculator({"type": "BboxOverlaps2D", "scale": 2.0, "dtype": "fp16"})) \
        == "BboxOverlaps2D(scale=2.0, dtype=fp16)"


def test_overlaps_leave_scores_out_and_scale_for_fp16():
    scored = torch.cat([BOXES, torch.rand(4, 1)], 1)
    assert torch.equal(BboxOverlaps2D()(scored, GTS), bbox_overlaps(BOXES, GTS))
    big = GTS * 100  # areas beyond what float16 holds
    scaled = BboxOverlaps2D(100.0, "fp16")(big, big)
    assert scaled.dtype == torch.float32
    torch.testing.assert_close(scaled, bbox_overlaps(GTS, GTS), atol=1e-3, rtol=1e-3)
    assert not BboxOverlaps2D(1.0, "fp16")(big, big).diagonal().eq(1).any()
    with pytest.raises(ValueError, match="boxes must have 4 columns, or 5"):
        BboxOverlaps2D()(BOXES[:, :3], GTS)
