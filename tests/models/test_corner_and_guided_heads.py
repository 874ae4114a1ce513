"""What the records of CornerNet, CentripetalNet and guided anchoring do not hold."""

import pytest
import torch

from fastdet.models import build_detector, build_head
from fastdet.models.losses.ae_loss import AssociativeEmbeddingLoss, ae_loss_per_image
from fastdet.models.plugins import DropBlock
from fastdet.testing import drawn

STRIDES = [8, 16]
SAMPLER = dict(type="RandomSampler", num=16, pos_fraction=0.5)
GUIDED = dict(
    in_channels=8, feat_channels=8, deform_groups=1, loc_filter_thr=0.4,
    approx_anchor_generator=dict(type="AnchorGenerator", octave_base_scale=4, scales_per_octave=3,
                                 ratios=[0.5, 1.0, 2.0], strides=STRIDES),
    square_anchor_generator=dict(type="AnchorGenerator", ratios=[1.0], scales=[4],
                                 strides=STRIDES))
METAS = [dict(img_shape=(64, 96, 3), pad_shape=(64, 96, 3), scale_factor=[2.0] * 4)] * 2


def corners(kind="CornerHead", **kwargs):
    return build_head(dict(type=kind, num_classes=3, in_channels=8, test_cfg=dict(
        corner_topk=4, local_maximum_kernel=3, distance_threshold=0.5, max_per_img=5,
        nms=dict(type="soft_nms", iou_threshold=0.5)), **kwargs))


def guided(kind, test_cfg, **kwargs):
    torch.manual_seed(0)
    head = build_head(dict(type=kind, **GUIDED, **kwargs, test_cfg=dict(
        nms_pre=20, nms=dict(type="nms", iou_threshold=0.5), **test_cfg)))
    feats = [torch.randn(2, 8, 64 // s, 96 // s) for s in STRIDES]
    return head.eval(), feats


@pytest.mark.parametrize(("cfg", "message"), [
    (dict(type="CornerHead", init_cfg=dict(type="Normal")), "init_cfg must be None"),
    (dict(type="CentripetalHead", guiding_shift_channels=3), "two channels, x and y"),
    (dict(type="GARetinaHead", square_anchor_generator=dict(
        type="AnchorGenerator", ratios=[1.0], scales=[8], strides=[4, 8])), "the same strides")])
def test_a_head_says_what_is_wrong(cfg, message):
    with pytest.raises(ValueError, match=message):
        build_head(dict(num_classes=3, in_channels=8, **cfg))


def test_corners_are_paired_in_one_way():
    maps = [torch.zeros(1, 2, 4, 4)] * 4
    for tags in ({}, dict(tl_emb=maps[0], tl_centripetal_shift=maps[0])):
        with pytest.raises(ValueError, match=r"by embeddings or by centripetal shifts"):
            corners().decode_heatmap(*maps, **tags)


def test_two_views_must_be_a_pair():
    detector = build_detector(dict(
        type="CornerNet", neck=None, bbox_head=dict(type="CornerHead", num_classes=1,
                                                    in_channels=8),
        backbone=dict(type="ResNet", depth=18, base_channels=8)))
    views = [torch.zeros(1, 3, 32, 32)] * 2
    with pytest.raises(ValueError, match=r"CornerNet: views must be pairs .*\[False, False\]"):
        detector.aug_test(views, [[dict(flip=False)]] * 2)


@pytest.mark.parametrize("kind", ["CornerHead", "CentripetalHead"])
def test_corners_that_belong_together_are_boxes(kind):
    """Of two objects of one class only their own corners meet; a border is not in the picture."""
    boxes = [(2, 3, 10, 9), (12, 4, 18, 14)]  # in cells of four pixels
    heat = torch.full((2, 2, 3, 16, 24), -9.0)  # of both corners, of two images
    tag, shift = torch.zeros(2, 2, 1, 16, 24), torch.zeros(2, 2, 2, 16, 24)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        half = torch.tensor([(x2 - x1) / 2, (y2 - y1) / 2]).log()
        for corner, (x, y) in enumerate([(x1, y1), (x2, y2)]):
            heat[corner, :, 1, y, x] = 5.0
            tag[corner, :, 0, y, x] = i + 0.4 * corner
            shift[corner, :, :, y, x] = half
    zero = torch.zeros(2, 2, 16, 24)
    if kind == "CornerHead":
        head, maps = corners(), (*heat, *tag, zero, zero)
    else:
        head = corners(kind, corner_emb_channels=0)
        maps = (*heat, zero, zero, zero, zero, *shift)
    metas = [METAS[0], dict(METAS[0], border=(4, 60, 8, 88))]
    found = head.get_bboxes(*[[m] for m in maps], img_metas=metas, with_nms=False)
    want = torch.tensor(boxes, dtype=torch.float) * 4
    moved = (want - torch.tensor([8.0, 4.0, 8.0, 4.0])).clamp(min=0)
    for (dets, labels), expected in zip(found, (want, moved)):
        sure = dets[:, 4] > 0.9
        assert torch.equal(dets[sure][dets[sure, 0].argsort(), :4], expected)
        assert (labels[sure] == 1).all()


def test_embeddings_of_a_batch_are_those_of_each_image():
    tl, br = drawn.draw("tl", (3, 1, 6, 7)), drawn.draw("br", (3, 1, 6, 7))
    match = [[[[1, 2], [3, 4]], [[0, 0], [5, 6]], [[2, 2], [2, 3]]], [], [[[4, 1], [5, 5]]]]
    each = [ae_loss_per_image(*one) for one in zip(tl, br, match)]
    pull, push = AssociativeEmbeddingLoss(0.5, 2.0)(tl, br, match)
    torch.testing.assert_close(pull, 0.5 * sum(one[0] for one in each))
    torch.testing.assert_close(push, 2.0 * each[0][1])
    assert each[1] == (0, 0)
    assert each[2][1] == 0
    a, b, c = ((tl[0, 0][p] + br[0, 0][q]) / 2 for p, q in (
        ((1, 2), (3, 4)), ((0, 0), (5, 6)), ((2, 2), (2, 3))))
    apart = sum((1 - abs(p - q)).clamp(min=0) for p, q in ((a, b), (a, c), (b, c)))
    torch.testing.assert_close(each[0][1], apart / 3)


def test_guided_detections_of_a_batch_are_those_of_each_image():
    head, feats = guided("GARetinaHead", dict(score_thr=0.0, max_per_img=7), num_classes=3,
                         stacked_convs=1)
    outs = head(feats)
    both = head.get_bboxes(*outs, img_metas=METAS, rescale=True)
    # Cells that are filtered out predict nothing.
    scores, located = outs[0][0], outs[3][0].sigmoid() >= 0.4
    assert 0 < located.sum() < located.numel()
    assert torch.equal((scores != 0).any(1, keepdim=True), located)
    for i, (boxes, labels) in enumerate(both):
        alone, = head.get_bboxes(*head([x[i:i + 1] for x in feats]), img_metas=METAS[:1],
                                 rescale=True)
        torch.testing.assert_close(boxes, alone[0])
        assert torch.equal(labels, alone[1])
    padded = head.detect(outs, METAS, rescale=True)
    for (boxes, labels), own in zip(both, padded.unpad()):
        torch.testing.assert_close(boxes, own[0])
        assert torch.equal(labels, own[1])


def test_guided_proposals_are_cut_on_each_level():
    head, feats = guided("GARPNHead", dict(max_per_img=50, nms_post=3, min_bbox_size=0))
    outs = head(feats)
    found = head.get_bboxes(*outs, img_metas=METAS)
    assert [len(boxes) for boxes in found] == [6, 6]
    head.test_cfg = dict(head.test_cfg, nms_post=50)
    more = head.get_bboxes(*outs, img_metas=METAS)
    head.test_cfg = dict(head.test_cfg, nms_across_levels=True)
    across = head.get_bboxes(*outs, img_metas=METAS)
    for three, every, fewer in zip(found, more, across):
        assert (every[:-1, 4] >= every[1:, 4]).all()
        rows = {tuple(box) for box in every.tolist()}
        assert {tuple(box) for box in three.tolist()} < rows
        assert {tuple(box) for box in fewer.tolist()} < rows
    with pytest.raises(ValueError, match="GARPNHead: proposals are always suppressed"):
        head.get_bboxes(*outs, img_metas=METAS, with_nms=False)


def test_guided_anchors_train_where_nothing_is():
    assigner = dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4)
    head, feats = guided(
        "GARPNHead", dict(max_per_img=5), train_cfg=dict(
            assigner=assigner, ga_assigner=dict(assigner, type="ApproxMaxIoUAssigner"),
            sampler=SAMPLER, ga_sampler=SAMPLER, allowed_border=-1, pos_weight=-1,
            center_ratio=0.2, ignore_ratio=0.5))
    head.train()
    losses = head.forward_train(feats, METAS, [torch.zeros(0, 4), torch.zeros(0, 4)])
    sum(sum(v) for v in losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)
    assert not any(losses["loss_anchor_shape"])
    assert all(v > 0 for v in losses["loss_anchor_loc"])


def test_drop_block_drops_its_share_in_blocks_once_it_is_warm():
    torch.manual_seed(0)
    layer, x = DropBlock(0.2, 3, warmup_iters=2), torch.ones(4, 8, 40, 40)
    shares = [float((layer(x) == 0).float().mean()) for _ in range(4)]
    assert shares[0] == pytest.approx(0.1, abs=0.02)
    assert shares[1:] == pytest.approx([0.19] * 3, abs=0.02)  # blocks overlap
    assert layer(x).mean() == pytest.approx(1.0, abs=1e-4)
    assert layer.eval()(x) is x
    for wrong in ((0.0, 3), (0.2, 4), (0.2, 3, -1)):
        with pytest.raises(ValueError, match="DropBlock: "):
            DropBlock(*wrong)
    with pytest.raises(ValueError, match=r"\[2, 40\] is smaller than a block of 3"):
        layer.train()(x[:, :, :2])
