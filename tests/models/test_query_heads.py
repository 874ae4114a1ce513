"""Heads of queries: matching, images without gts, bad input. Their numbers are in the records."""

import pytest
import torch

from fastdet.core.bbox import HungarianAssigner, PseudoSampler
from fastdet.core.bbox.assigners.hungarian_assigner import least_cost_matchings
from fastdet.core.bbox.samplers.samples import Samples
from fastdet.models import build_head

METAS = [{"batch_input_shape": (64, 96), "img_shape": (60, 90, 3), "scale_factor": [2.0] * 4}] * 2
LAYER = dict(attn_cfgs=dict(type="MultiheadAttention", embed_dims=16, num_heads=2),
             ffn_cfgs=dict(type="FFN", embed_dims=16, feedforward_channels=16))
ORDER = ("self_attn", "norm", "ffn", "norm")


def detr(**kwargs):
    return build_head(dict(
        type="DETRHead", num_classes=3, in_channels=8, num_query=5,
        transformer=dict(
            type="Transformer",
            encoder=dict(type="DetrTransformerEncoder", num_layers=1, transformerlayers=dict(
                type="BaseTransformerLayer", operation_order=ORDER, **LAYER)),
            decoder=dict(type="DetrTransformerDecoder", num_layers=2, return_intermediate=True,
                         transformerlayers=dict(
                             type="DetrTransformerDecoderLayer", feedforward_channels=16,
                             operation_order=("self_attn", "norm", "cross_attn", "norm",
                                              "ffn", "norm"), **LAYER))),
        positional_encoding=dict(type="SinePositionalEncoding", num_feats=8), **kwargs))


def boxes(n):
    low = torch.rand(n, 2) * 20
    return torch.cat([low, low + 5 + torch.rand(n, 2) * 30], 1)


def test_matchings_of_any_sizes():
    costs = [torch.tensor([[1.0, 9.0], [9.0, 1.0], [0.5, 9.0]]), torch.zeros(3, 0),
             torch.tensor([[3.0, 1.0, 2.0]], dtype=torch.bfloat16)]
    assert [m.tolist() for m in least_cost_matchings(costs)] == [[0, 2, 1], [0, 0, 0], [2]]


def test_a_cost_that_is_nan_is_refused():
    with pytest.raises(ValueError, match="cost of matching predictions and gts is NaN"):
        least_cost_matchings([torch.tensor([[0.0, float("nan")]])])


@pytest.mark.parametrize("counts", [(2, 0), (0, 0), (7, 1)])
def test_images_without_gts_and_with_more_gts_than_queries(counts):
    torch.manual_seed(0)
    head = detr()
    losses = head.forward_train([torch.randn(2, 8, 2, 3)], METAS, [boxes(n) for n in counts],
                                [torch.randint(3, (n,)) for n in counts])
    assert set(losses) == {prefix + name for prefix in ("", "d0.")
                           for name in ("loss_cls", "loss_bbox", "loss_iou")}
    sum(losses.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in head.parameters() if p.grad is not None)
    if counts == (0, 0):
        assert losses["loss_bbox"] == 0
        assert losses["loss_cls"] > 0


def test_detections_are_clipped_and_rescaled():
    head = detr(test_cfg=dict(max_per_img=4)).eval()
    with torch.no_grad():
        found = head.simple_test([torch.randn(2, 8, 2, 3)], METAS, rescale=True)
    for dets, labels in found:
        assert dets.shape == (4, 5)
        assert labels.max() < 3
        assert (dets[:, :4] >= 0).all()
        assert (dets[:, :4] <= torch.tensor([45.0, 30.0, 45.0, 30.0])).all()
        assert (dets[:, 4].diff() <= 0).all()


def test_bad_input_of_detr():
    with pytest.raises(ValueError, match="weight of reg_cost must be that of its loss, got 5"):
        detr(loss_bbox=dict(type="L1Loss", loss_weight=2.0))
    with pytest.raises(ValueError, match="initialises its weights itself"):
        detr(init_cfg=dict(type="Xavier", layer="Linear"))
    head = detr()
    with pytest.raises(ValueError, match="gt_bboxes_ignore cannot be given"):
        head.forward_train([torch.randn(2, 8, 2, 3)], METAS, [boxes(1)] * 2,
                           [torch.zeros(1).long()] * 2, gt_bboxes_ignore=[boxes(1)] * 2)
    with pytest.raises(TypeError, match="no test-time augmentation"):
        head.aug_test([], [])


def test_proposals_of_sparse_rcnn_keep_their_order():
    torch.manual_seed(0)
    head = build_head(dict(type="DIIHead", num_classes=3, in_channels=16, feedforward_channels=16,
                           num_heads=2, roi_feat_size=2,
                           loss_cls=dict(type="FocalLoss", use_sigmoid=True),
                           dynamic_conv_cfg=dict(type="DynamicConv", in_channels=16,
                                                 feat_channels=4, input_feat_shape=2)))
    gts, labels, proposals = boxes(2), torch.tensor([2, 0]), boxes(6)
    found = HungarianAssigner().assign(torch.rand(6, 4), torch.randn(6, 3), gts, labels,
                                       {"img_shape": (60, 90, 3)})
    result = PseudoSampler().sample(found, proposals, gts, labels)
    pos, inds = found.gt_inds > 0, (found.gt_inds - 1).clamp(min=0)
    samples = Samples(proposals[None], torch.ones(1, 6).bool(), pos[None], gts[inds][None],
                      labels[inds][None], inds[None], torch.zeros(1, 6).bool())
    cfg = {"pos_weight": 1}
    for a, b in zip(head.get_targets([result], None, None, cfg),
                    head.get_targets(samples, None, None, cfg)):
        assert torch.equal(a, b)


def test_solo_needs_boxes_and_no_box_head():
    head = build_head(dict(type="SOLOHead", num_classes=2, in_channels=8, feat_channels=8,
                           norm_cfg=None, stacked_convs=1,
                           loss_mask=dict(type="DiceLoss"), loss_cls=dict(type="FocalLoss")))
    with pytest.raises(ValueError, match="gt_bboxes must be given"):
        head.targets(None, [], [], [], [], (8, 8), once=True)
    with pytest.raises(ValueError, match="num_grids, strides and scale_ranges are of each level"):
        build_head(dict(type="SOLOHead", num_classes=2, in_channels=8, num_grids=[4]))
