"""RoI extractors: switches that no record reaches, and one call where the layers are RoIAlign."""

import pytest
import torch

from fastdet.models import SingleRoIExtractor, build_roi_extractor
from fastdet.ops import RoIAlign

STRIDES = [4, 8]
ROIS = torch.tensor([[0, 3.0, 4, 30, 41], [1, 5, 6, 60, 62], [0, 9, 9, 9, 9]])


class OwnRoIAlign(RoIAlign):
    """A user's layer: not known to be RoIAlign, so that levels run one after the other."""


def config(**change):
    layer = {"type": "RoIAlign", "output_size": 2, "sampling_ratio": 0}
    return {"type": "SingleRoIExtractor", "roi_layer": layer, "out_channels": 3,
            "featmap_strides": STRIDES, "finest_scale": 20, **change}


@pytest.fixture
def feats():
    return [torch.randn(2, 3, 16 >> i, 16 >> i, requires_grad=True) for i in range(2)]


@pytest.mark.parametrize("factor", [None, 1.5])
def test_one_call_equals_level_by_level(feats, factor):
    one = build_roi_extractor(config())
    each = build_roi_extractor(config(roi_layer={"type": OwnRoIAlign, "output_size": 2}))
    assert one.num_inputs == 2
    assert not one.state_dict()
    got, want = one(feats, ROIS, factor), each(feats, ROIS, factor)
    torch.testing.assert_close(got, want)
    grad = torch.randn_like(got)
    torch.testing.assert_close(torch.autograd.grad(got, feats, grad),
                               torch.autograd.grad(want, feats, grad))


@pytest.mark.parametrize("layer", [RoIAlign, OwnRoIAlign])
def test_every_map_takes_part(feats, layer):
    extractor = build_roi_extractor(config(roi_layer={"type": layer, "output_size": 2}))
    for rois in (ROIS[2:], ROIS[:0]):
        grads = torch.autograd.grad(extractor(feats, rois).sum(), feats)
        assert grads[1].eq(0).all()


def test_a_subclass_may_choose_levels(feats):
    class Coarsest(SingleRoIExtractor):
        def map_roi_levels(self, rois, num_levels):
            return torch.full((len(rois),), num_levels - 1)

    arguments = config()
    arguments.pop("type")
    got = Coarsest(**arguments)(feats, ROIS)
    torch.testing.assert_close(got, RoIAlign(2, 1 / 8)(feats[1], ROIS))


def test_one_map(feats):
    for kind in ("SingleRoIExtractor", "GenericRoIExtractor"):
        cfg = config(type=kind, featmap_strides=[4])
        if kind == "GenericRoIExtractor":
            cfg.pop("finest_scale")
        torch.testing.assert_close(build_roi_extractor(cfg)(feats[:1], ROIS),
                                   RoIAlign(2, 1 / 4)(feats[0], ROIS))


def test_bad_arguments(feats):
    with pytest.raises(ValueError, match="such as 'RoIAlign', got 'Nope'"):
        build_roi_extractor(config(roi_layer={"type": "Nope"}))
    generic = config(type="GenericRoIExtractor")
    generic.pop("finest_scale")
    with pytest.raises(ValueError, match="aggregation must be 'sum' or 'concat', got 'max'"):
        build_roi_extractor({**generic, "aggregation": "max"})
    with pytest.raises(ValueError, match="out_channels is 3, but the maps give 6 by concat"):
        build_roi_extractor({**generic, "aggregation": "concat"})(feats, ROIS)
