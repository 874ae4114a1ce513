"""What no record of the evaluation holds: other rules than Pascal VOC's, tables, bad input."""

import numpy as np
import pytest

from fastdet.core.evaluation import (
    average_precision,
    eval_map,
    eval_recalls,
    get_classes,
)
from fastdet.core.evaluation.bbox_overlaps import bbox_overlaps
from fastdet.core.evaluation.mean_ap import tpfp_imagenet, tpfp_openimages


def boxes(*rows):
    return np.array(rows, dtype=np.float32).reshape(len(rows), -1)


def test_imagenet_asks_less_of_small_boxes():
    """Six pixels of ten: an IoU of 0.25 is enough for them, and 0.5 for large boxes."""
    dets = boxes([4, 1, 9, 9, 0.9], [103, 103, 199, 139, 0.8])
    tp, fp = tpfp_imagenet(dets, boxes([2, 2, 10, 10], [101, 101, 201, 201]))
    assert tp.tolist() == [[1, 0]]
    assert fp.tolist() == [[0, 1]]


def test_imagenet_takes_the_best_free_gt():
    dets = boxes([0, 0, 100, 100, 0.9], [0, 0, 100, 100, 0.8], [0, 0, 100, 100, 0.7])
    tp, fp = tpfp_imagenet(dets, boxes([1, 1, 101, 101], [1, 1, 101, 81]))
    assert tp.tolist() == [[1, 1, 0]]
    assert fp.tolist() == [[0, 0, 1]]


def test_detections_of_a_group_are_one():
    dets = boxes([0, 0, 10, 10, 0.5], [20, 20, 30, 30, 0.9], [40, 40, 50, 50, 0.7],
                 [200, 200, 210, 210, 0.3])
    gts = boxes([0, 0, 10, 11], [15, 15, 60, 60], [300, 300, 400, 400])
    tp, fp, kept = tpfp_openimages(dets, gts, gt_bboxes_group_of=np.array([False, True, True]))
    assert tp.tolist() == [[1, 0, 1, 0]]
    assert fp.tolist() == [[0, 1, 0, 1]]
    assert np.allclose(kept[:, 4], [0.5, 0.3, 0.9, 0.0])


def test_map_of_open_images():
    dets = [[boxes([0, 0, 10, 10, 0.5], [20, 20, 30, 30, 0.9], [40, 40, 50, 50, 0.7])]]
    gts = [{"bboxes": boxes([0, 0, 10, 11], [15, 15, 60, 60]), "labels": np.zeros(2, dtype=int),
            "gt_is_group_ofs": np.array([False, True])}]
    mean, (result,) = eval_map(dets, gts, dataset=["thing"], use_group_of=True, ioa_thr=0.5,
                               logger="silent")
    assert mean == 1.0
    assert (result["num_dets"], result["num_gts"]) == (2, 2)


def test_table(capsys):
    dets, gts = [[boxes([0, 0, 10, 10, 0.5])]], [{"bboxes": boxes([0, 0, 10, 10]),
                                                 "labels": np.zeros(1, dtype=int)}]
    eval_map(dets, gts, dataset=["teapot"])
    assert "| teapot | 1   | 1    | 1.000  | 1.000 |" in capsys.readouterr().out


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda: average_precision(np.zeros(2), np.zeros(2), "9points"), ValueError, "'9points'"),
    (lambda: average_precision(np.zeros(2), np.zeros(3)), ValueError, "differ"),
    (lambda: bbox_overlaps(np.zeros((1, 4)), np.zeros((1, 4)), "giou"), ValueError, "'giou'"),
    (lambda: eval_map([[np.zeros((0, 5))]], []), ValueError, "1 images and annotations of 0"),
    (lambda: eval_recalls([], [np.zeros((0, 5))]), ValueError, "boxes of 0 images"),
    (lambda: get_classes("cocoa"), ValueError, "'cocoa'"),
    (lambda: get_classes(3), TypeError, "int"),
])
def test_bad_input(call, error, text):
    with pytest.raises(error, match=text):
        call()
