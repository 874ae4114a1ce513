"""Heads of regions: what records of whole detectors do not reach, and bad input."""

import types

import numpy as np
import pytest
import torch

from fastdet.core.bbox import AssignResult, IoUBalancedNegSampler
from fastdet.models import MODELS, CascadeRoIHead, DynamicRoIHead, PanopticFPN

EXTRACTOR = dict(type="SingleRoIExtractor", out_channels=2, featmap_strides=[4],
                 roi_layer=dict(type="RoIAlign", output_size=2))
BOXES = dict(type="BBoxHead", in_channels=2, roi_feat_size=2, num_classes=3)
MASKS = dict(type="FCNMaskHead", num_convs=1, in_channels=2, conv_out_channels=2, num_classes=3)
HEAD = dict(bbox_roi_extractor=EXTRACTOR, bbox_head=BOXES)
SABL = dict(type="SABLHead", num_classes=3, cls_in_channels=2, reg_in_channels=2)


@pytest.mark.parametrize(("config", "error", "message"), [
    (dict(BOXES, with_cls=False, with_reg=False), ValueError, "with_cls and with_reg"),
    (dict(BOXES, type="ConvFCBBoxHead"), ValueError, "all six numbers of layers are zero"),
    (dict(BOXES, type="DoubleConvFCBBoxHead", num_convs=1), ValueError, "num_fcs=0"),
    (dict(SABL, bbox_coder=dict(type="BucketingBBoxCoder", num_buckets=7, scale_factor=1.7)),
     ValueError, "roi_feat_size [*] reg_feat_up_ratio = 14, got 7"),
    (dict(SABL, reg_class_agnostic=False), ValueError, "reg_class_agnostic"),
    (dict(MASKS, upsample_cfg=dict(type="bicubic")), ValueError, "one of None, deconv"),
    (dict(MASKS, init_cfg=dict(type="Normal")), ValueError, "initialises its weights itself"),
    (dict(MASKS, type="CoarseMaskHead", num_fcs=0), ValueError, "must be positive, got 0"),
    (dict(MASKS, type="SCNetMaskHead", conv_kernel_size=1), ValueError, "must be 3, got 1"),
    (dict(type="GridHead", grid_points=8), ValueError, "a square number, got 8"),
    (dict(type="GridHead", point_feat_channels=5), ValueError, "45 channels are no 36 groups"),
    (dict(type="ResLayer", depth=51), KeyError, "51"),
    (dict(HEAD, type="PointRendRoIHead", point_head=None), ValueError, "needs bbox_head and mask"),
    (dict(HEAD, type="MaskScoringRoIHead", mask_iou_head=None), TypeError, "mask_iou_head must"),
    (dict(HEAD, type="GridRoIHead", grid_roi_extractor=None, grid_head=None), TypeError,
     "grid_head must be a config"),
    (dict(HEAD, type="DynamicRoIHead", bbox_head=dict(BOXES, loss_bbox=dict(type="L1Loss"))),
     TypeError, "must be a SmoothL1Loss, got L1Loss"),
    (dict(HEAD, type="CascadeRoIHead", num_stages=2, stage_loss_weights=[1, 1], bbox_head=[BOXES]),
     ValueError, "2 stages and 1 configs of bbox_head"),
    (dict(HEAD, type="HybridTaskCascadeRoIHead", num_stages=1, stage_loss_weights=[1]),
     ValueError, "needs a mask_head"),
    (dict(HEAD, type="SCNetRoIHead", num_stages=1, stage_loss_weights=[1]), ValueError,
     "needs a mask_head"),
])
def test_bad_configs_are_refused(config, error, message):
    with pytest.raises(error, match=message):
        MODELS.build(config)


def test_masks_of_another_size_are_refused():
    head = MODELS.build(dict(type="GridHead", num_convs=1, in_channels=2, point_feat_channels=4))
    with pytest.raises(ValueError, match="regions must be 14 x 14, got \\[1, 2, 7, 7\\]"):
        head(torch.zeros(1, 2, 7, 7))
    flow = MODELS.build(dict(MASKS, type="HTCMaskHead", with_conv_res=False))
    with pytest.raises(ValueError, match="with_conv_res is false"):
        flow(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4))


def discs(head, boxes, gts, radius):
    """Targets pixel by pixel, as the paper has them."""
    size = head.whole_map_size
    out = torch.zeros(len(boxes), head.grid_points, size, size)
    for target, (x1, y1, x2, y2), gt in zip(out, boxes.tolist(), gts.tolist()):
        w, h = x2 - x1, y2 - y1
        if min(2 * w, 2 * h) <= head.grid_size:
            continue
        for k in range(head.grid_points):
            far = [i / (head.grid_size - 1) for i in divmod(k, head.grid_size)]
            point = [gt[i] * (1 - far[i]) + gt[i + 2] * far[i] for i in (0, 1)]
            cx = int((point[0] - (x1 - w / 2)) / (2 * w) * size)
            cy = int((point[1] - (y1 - h / 2)) / (2 * h) * size)
            for y in range(size):
                for x in range(size):
                    target[k, y, x] = (x - cx) ** 2 + (y - cy) ** 2 <= radius ** 2
    return torch.stack([out[:, k, y1:y2, x1:x2] for k, (x1, y1, x2, y2) in
                        enumerate(head.sub_regions)], dim=1)


@pytest.mark.parametrize("points", [9, 16])
def test_grid_targets_are_discs_around_the_points(points):
    head = MODELS.build(dict(type="GridHead", grid_points=points, num_convs=1, roi_feat_size=6,
                             in_channels=2, point_feat_channels=1,
                             norm_cfg=dict(type="GN", num_groups=points)))
    boxes = torch.tensor([[3.0, 4, 40, 31], [10, 10, 90, 20], [5, 5, 6, 40]])
    gts = torch.tensor([[1.0, 9, 44, 30], [0, 8, 94, 19], [4, 4, 7, 41]])
    result = types.SimpleNamespace(pos_bboxes=boxes, pos_gt_bboxes=gts)
    got = head.get_targets([result], dict(pos_radius=2))
    torch.testing.assert_close(got, discs(head, boxes, gts, radius=2))
    assert got[:2].any()
    assert not got[2].any()  # too narrow


def test_instances_are_laid_over_stuff_the_surest_first():
    head = MODELS.build(dict(type="HeuristicFusionHead", num_things_classes=2,
                             num_stuff_classes=2, test_cfg=dict(
                                 mask_thr_binary=0.5, mask_overlap=0.5, stuff_area_limit=3)))
    masks = torch.zeros(4, 4, 4)
    masks[0, :2, :2] = 0.9          # hidden under the next one
    masks[1, :2, :3] = 0.9
    masks[2, 1:3, 2:] = 0.5         # a quarter is hidden
    boxes = torch.zeros(4, 5)
    boxes[:, 4] = torch.tensor([0.6, 0.9, 0.7, 0.8])  # the last mask is empty
    stuff = torch.zeros(3, 4, 4)
    stuff[1, 3:] = 1.0
    stuff[0, 3, 3] = 2.0            # one pixel of class 2: too few
    stuff[2, :3] = 1.0              # things, without an instance
    got = head.simple_test(boxes, torch.tensor([0, 1, 0, 1]), masks, stuff)
    assert got.tolist() == [[1001, 1001, 1001, 4], [1001, 1001, 1001, 2000], [4, 4, 2000, 2000],
                            [3, 3, 3, 4]]


def test_dynamic_head_moves_every_interval():
    cfg = dict(iou_topk=2, beta_topk=1, update_iter_interval=2, initial_iou=0.4, initial_beta=1.0)
    head = MODELS.build(dict(HEAD, type="DynamicRoIHead"))
    head.train_cfg = dict(dynamic_rcnn=cfg)
    head.bbox_assigner = types.SimpleNamespace()
    assert isinstance(head, DynamicRoIHead)
    valid = torch.tensor([[True, True, True], [True, False, False]])
    head.note_overlaps(torch.tensor([[0.9, 0.1, 0.7], [0.5, 0.8, 0.8]]), valid)
    head.beta_history.append(torch.tensor(float("inf")))  # an iteration without positives
    assert float(head.iou_history[0]) == pytest.approx((0.7 + 0.5) / 2)
    assert head.update_hyperparameters() == pytest.approx((0.6, 1.0))
    assert head.bbox_assigner.min_pos_iou == head.bbox_assigner.pos_iou_thr == pytest.approx(0.6)
    assert head.iou_history == head.beta_history == []
    head.iou_history, head.beta_history = [torch.tensor(0.1)], [torch.tensor(0.25)]
    assert head.update_hyperparameters() == pytest.approx((0.4, 0.25))
    assert head.bbox_head.loss_bbox.beta == 0.25


def test_iou_balanced_sampler_has_a_floor_from_the_second_image_on():
    sampler = IoUBalancedNegSampler(num=4, pos_fraction=0.0, floor_thr=-1, num_bins=2)
    overlaps = torch.tensor([0.0, 0, 0, 0, 0.3, 0.3, 0.3])
    assigned = AssignResult(1, torch.zeros(7, dtype=torch.long), overlaps)
    first, second = (sampler._sample_neg(assigned, 3) for _ in range(2))
    assert (overlaps[first] == 0).any()
    assert not (overlaps[second] == 0).any()


def test_points_of_no_masks_have_no_loss():
    head = MODELS.build(dict(type="MaskPointHead", num_classes=3, in_channels=2, fc_channels=2))
    pred = head(torch.zeros(0, 2, 5), torch.zeros(0, 3, 5))
    loss = head.loss(pred, torch.zeros(0, 5), torch.zeros(0, dtype=torch.long))["loss_point"]
    loss.backward()
    assert loss.detach() == 0
    assert not head.fc_logits.weight.grad.any()


def test_shared_head_keeps_its_norms_in_eval():
    for norm_eval in (True, False):
        head = MODELS.build(dict(type="ResLayer", depth=18, stage=1, norm_eval=norm_eval)).train()
        assert head.training
        assert head.layer2[0].bn1.training is not norm_eval


def test_a_cascade_takes_one_config_for_all_stages():
    head = CascadeRoIHead(2, [1, 0.5], **HEAD, mask_head=MASKS)
    assert [len(m) for m in (head.bbox_head, head.mask_head, head.bbox_roi_extractor)] == [2] * 3
    assert head.mask_roi_extractor is head.bbox_roi_extractor
    assert not head.bbox_assigner


def test_a_panoptic_result_is_drawn_segment_by_segment():
    drawing = types.SimpleNamespace(num_classes=4, CLASSES=("cat", "dog", "sky", "sea"))
    segments = np.full((40, 60), 4, dtype=np.int32)  # nothing
    segments[:20, :30], segments[:20, 30:] = 1001, 3
    image = np.full((40, 60, 3), 100, dtype=np.uint8)
    out = PanopticFPN.show_result(drawing, image, dict(pan_results=segments), mask_color="red")
    assert out.shape == image.shape
    assert (out[25:] == image[25:]).all()
    assert all((out[:20, part] != image[:20, part]).any() for part in (slice(30), slice(30, 60)))
