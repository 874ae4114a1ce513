"""Whole detectors in one graph: image to padded detections, features to losses.

Images of other sizes, and other numbers of gts, share it: two compilations are granted, one for
the first sizes and one with symbols.
"""

import pytest
import small_detectors
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from fastdet.core.bbox import GroundTruth, bbox2result
from fastdet.testing import detectors, drawn

SIZES = [(128, 160), (96, 128), (64, 96), (160, 96)]
GTS = [(3, 5), (4, 2), (2, 7), (8, 9)]
NAMES = ["retinanet", "fcos", "centernet", "faster-rcnn"]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def metas(img):
    shape = (*img.shape[2:], 3)
    return [{"img_shape": shape, "pad_shape": shape, "batch_input_shape": shape[:2],
             "border": (0, shape[0], 0, shape[1]), "scale_factor": (1.0, 1.0, 1.0, 1.0)}
            for _ in range(img.shape[0])]


def image(size):
    return drawn.draw(f"image{size}", (2, 3, *size)).float()


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_image_to_detections(name):
    model = small_detectors.build(name).eval()
    backend = CompileCounterWithBackend("eager")
    found = torch.compile(lambda img: model.detect(img, metas(img)), backend=backend,
                          fullgraph=True)
    for size in SIZES:
        img = image(size)
        boxes, labels, counts = found(img)
        assert counts.sum() > 0
        results = [bbox2result(b[:n], c[:n], 5) for b, c, n in zip(boxes, labels, counts)]
        close(results, model.simple_test(img, metas(img)))
    assert backend.frame_count <= 2


def losses_of(model, img, x, gts):
    """Losses of feature maps; ``gts`` are padded, or boxes and labels of each image."""
    boxes, labels = gts if isinstance(gts, tuple) else (gts, gts.labels)
    if hasattr(model, "roi_head"):
        return model.losses_of(x, metas(img), boxes, labels, None, None, None)
    return model.bbox_head.loss(*model.bbox_head(x), boxes, labels, metas(img))


def ground_truth(name, counts, size):
    boxes = [drawn.boxes(f"gt{n}", n, *size) for n in counts]
    labels = [torch.arange(n) % 5 for n in counts]
    return (boxes, labels) if name == "centernet" else GroundTruth.pad(boxes, labels)


@pytest.mark.parametrize("name", NAMES)
def test_features_to_losses(name):
    model = detectors.quiet(small_detectors.build(name))
    backend = CompileCounterWithBackend("eager")
    compiled = torch.compile(lambda *args: losses_of(model, *args), backend=backend,
                             fullgraph=True)
    with detectors.settled():
        for size, counts in zip(SIZES, GTS):
            img = image(size)
            with torch.no_grad():
                x = model.extract_feat(img)
            gts = ground_truth(name, counts, size)
            close(compiled(img, x, gts), losses_of(model, img, x, gts))
    assert backend.frame_count <= 2


@torch.no_grad()
def test_inductor():
    """The same numbers from a compiler's own code."""
    model = small_detectors.build("centernet").eval()
    img = image(SIZES[2])
    outs = model.bbox_head(model.extract_feat(img))
    found = torch.compile(model.bbox_head.detect, fullgraph=True)(outs, metas(img))
    close(tuple(found), tuple(model.bbox_head.detect(outs, metas(img))))
