"""Wrong ground truth, checkpoints and configs, and batches at the edge of what is right."""

from pathlib import Path

import pytest
import torch

from fastdet.models import build_detector
from fastdet.runner import load_state_dict
from fastdet.testing import detectors, drawn, golden

RECORDS = Path(__file__).parents[1] / "golden" / "detectors"
NAMES = ["retinanet", "fcos", "faster-rcnn"]


def case(name):
    return golden.load(RECORDS / f"detector__{name}.json.gz")


@pytest.fixture(params=NAMES)
def training(request):
    """A detector in training and what its ``train_step`` takes."""
    record = case(request.param)
    model = detectors.quiet(detectors.build(record, torch.float32))
    img, metas, gts = drawn.batch(record["batch"])
    gts.pop("gt_bboxes_ignore", None)
    return model, {"img": img, "img_metas": metas, **gts}


def test_a_box_that_ends_before_it_begins(training):
    model, data = training
    data["gt_bboxes"][1][0] = torch.tensor([50.0, 20.0, 30.0, 60.0])
    with pytest.raises(ValueError, match=r"image 1 \(1.jpg\): gt_bboxes\[0\].*\[50.0, 20.0, 30.0"):
        model.train_step(data, None)


def test_a_class_that_is_not_there(training):
    model, data = training
    data["gt_labels"][0][1] = 5
    with pytest.raises(ValueError, match=r"image 0 .*gt_labels\[1\].* from 0 to 4, got 5"):
        model.train_step(data, None)


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_a_nan_is_named_under_anomaly_detection(training):
    model, data = training
    data["img"][1, :, 3, 4] = float("nan")
    assert not model.train_step(data, None)["loss"].isfinite()
    with torch.autograd.detect_anomaly(), pytest.raises(
            FloatingPointError, match=r"loss.* not finite; .*image 1 \(1.jpg\)"):
        model.train_step(data, None)


def test_no_gts_and_many(training):
    """One image is empty, the other has 3 000 objects: losses and gradients are finite."""
    model, data = training
    data["gt_bboxes"] = [torch.zeros(0, 4), drawn.boxes("crowd", 3000, 90, 120, 4.0, 0.2)]
    data["gt_labels"] = [torch.zeros(0, dtype=torch.long), torch.arange(3000) % 5]
    loss = model.train_step(data, None)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_trains(name):
    """Losses under autocast are those of float32 to its eight bits."""
    record = case(name)
    model = detectors.quiet(detectors.build(record, torch.float32))
    img, metas, gts = drawn.batch(record["batch"])
    with detectors.settled():
        want = model.train_step({"img": img, "img_metas": metas, **gts}, None)["log_vars"]
    with detectors.settled(), torch.autocast("cpu", torch.bfloat16):
        got = model.train_step({"img": img, "img_metas": metas, **gts}, None)
    got["loss"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    for key in want:
        if "loss" in key:
            assert got["log_vars"][key] == pytest.approx(want[key], rel=0.05), key


def test_a_checkpoint_of_another_head():
    record = case("retinanet")
    model = detectors.build(record, torch.float32)
    record["model"]["bbox_head"]["num_classes"] = 7
    with pytest.raises(RuntimeError, match=r"bbox_head.retina_cls.weight"):
        load_state_dict(model, detectors.build(record, torch.float32).state_dict(), strict=True)


def test_a_detector_that_is_not_there():
    with pytest.raises(KeyError, match="RetinaNet"):
        build_detector({"type": "RetinaNets"})
