"""Whole detectors in one graph: image to padded detections, features to losses.

Images of other sizes, and other numbers of gts, share it: two compilations are granted, one for
the first sizes and one with symbols.
"""

from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from fastdet.core.bbox import GroundTruth, bbox2result
from fastdet.testing import detectors, drawn, golden

RECORDS = Path(__file__).parents[1] / "golden" / "detectors"
SIZES = [(128, 160), (96, 128)]
GTS = [(3, 5), (4, 2)]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def detector(name):
    return detectors.build(golden.load(RECORDS / f"detector__{name}.json.gz"), torch.float32)


def metas(img):
    shape = (*img.shape[2:], 3)
    return [{"img_shape": shape, "pad_shape": shape, "scale_factor": (1.0, 1.0, 1.0, 1.0)}
            for _ in range(img.shape[0])]


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["retinanet", "fcos", "faster-rcnn"])
@torch.no_grad()
def test_image_to_detections(name):
    model = detector(name).eval()
    backend = CompileCounterWithBackend("eager")
    found = torch.compile(lambda img: model.detect(img, metas(img)), backend=backend,
                          fullgraph=True)
    for size in SIZES:
        img = drawn.draw(f"image{size}", (2, 3, *size)).float()
        boxes, labels, counts = found(img)
        assert counts.sum() > 0
        results = [bbox2result(b[:n], c[:n], 5) for b, c, n in zip(boxes, labels, counts)]
        close(results, model.simple_test(img, metas(img)))
    assert backend.frame_count <= 2


def test_features_to_losses():
    model = detectors.quiet(detector("retinanet"))
    backend = CompileCounterWithBackend("eager")

    def losses(img, x, gts):
        return model.bbox_head.loss(*model.bbox_head(x), gts, gts.labels, metas(img))

    compiled = torch.compile(losses, backend=backend, fullgraph=True)
    for size, counts in zip(SIZES, GTS):
        img = drawn.draw(f"image{size}", (2, 3, *size)).float()
        with torch.no_grad():
            x = model.extract_feat(img)
        gts = GroundTruth.pad([drawn.boxes(f"gt{n}", n, *size) for n in counts],
                              [torch.arange(n) % 5 for n in counts])
        close(compiled(img, x, gts), losses(img, x, gts))
    assert backend.frame_count <= 2
