"""From the features to the losses the host waits for nothing."""

from pathlib import Path

import pytest
import torch

from fastdet.testing import detectors, drawn, golden
from fastdet.testing.syncs import SyncCounter

RECORDS = Path(__file__).parents[1] / "golden" / "detectors"

#: Records of detectors whose training step has no sync. The targets of CenterNet and CornerNet are
#: one operator, whose path on a CPU is another one than on a GPU.
NONE = ("atss", "autoassign", "ddod", "faster-rcnn", "fast-rcnn", "fcos", "foveabox",
        "free-anchor", "fsaf", "ga-faster", "ga-retinanet", "gfl", "reppoints", "retinanet", "rpn",
        "sabl-retinanet", "ssd", "tood", "vfnet", "yolof", "yolov3", "yolox", "cascade-rcnn")

#: Records of detectors that copy the costs of the matching to the host, once; SOLO its boxes.
MATCHING = ("detr", "deformable-detr", "deformable-detr-two-stage", "mask2former", "solo",
            "solov2", "sparse-rcnn")


def syncs(case):
    """Host syncs of a record's training step, from features to losses."""
    model = detectors.quiet(detectors.build(case))
    img, metas, gts = drawn.batch(case["batch"], next(model.parameters()).dtype)
    with torch.no_grad():
        feats = model.extract_feat(img)
    model.extract_feat = lambda *args, **kwargs: feats
    with SyncCounter() as counter:
        model(img=img, img_metas=metas, return_loss=True, **gts)
    assert counter.operators > 100
    return counter.counts


def there(names):
    for name in names:
        case = golden.load(RECORDS / f"detector__{name}.json.gz")
        if not detectors.missing(case):
            yield pytest.param(case, id=name)


@pytest.mark.parametrize("case", list(there(NONE)))
def test_no_sync(case):
    assert syncs(case) == {}


@pytest.mark.parametrize("case", list(there(MATCHING)))
def test_one_copy_for_the_matching(case):
    assert sum(syncs(case).values()) == 1


@pytest.mark.parametrize("wait", [
    lambda x: x.sum().item(), lambda x: bool(x[0] > 0), lambda x: x.nonzero(), lambda x: x[x > 0],
    lambda x: x.masked_select(x > 0), lambda x: x.unique(), lambda x: x.tolist(),
    lambda x: x.detach().numpy(), lambda x: x.cpu().tolist(),
    lambda x: x.new_zeros(4).masked_fill_(x > 0, 1).index_put_((x > 0,), x.sum())])
def test_every_kind_of_wait_is_seen(wait):
    with SyncCounter() as counter:
        wait(torch.rand(4))
    assert counter.total == 1
