"""What the records of dense heads and one-stage detectors do not hold."""

import random

import pytest
import torch

from fastdet.models import build_detector, build_head, build_loss

ANCHORS = dict(type="AnchorGenerator", ratios=[1.0], octave_base_scale=8, scales_per_octave=1,
               strides=[8, 16])
ASSIGNER = dict(type="MaxIoUAssigner", pos_iou_thr=0.1, neg_iou_thr=0.1)
FPN = dict(type="FPN", in_channels=[64, 128], out_channels=8, num_outs=2)
BACKBONE = dict(type="ResNet", depth=18, base_channels=8, out_indices=(0, 1))


def head(kind, **kwargs):
    return build_head(dict(type=kind, num_classes=3, in_channels=8, **kwargs))


@pytest.mark.parametrize(("kind", "kwargs", "message"), [
    ("YOLOXHead", dict(loss_obj=dict(type="CrossEntropyLoss", use_sigmoid=True)),
     "loss_obj must have reduction='sum', got 'mean'"),
    ("FSAFHead", dict(loss_cls=dict(type="FocalLoss")),
     "loss_cls must have reduction='none', got 'mean'"),
    ("TOODHead", dict(anchor_type="none"), "anchor_type must be anchor_free or anchor_based"),
    ("PAAHead", dict(covariance_type="round"), "covariance_type must be full, tied, diag or"),
    ("VFNetHead", dict(bbox_norm_type="none"), "bbox_norm_type must be reg_denom or stride"),
    ("VFNetHead", dict(reg_decoded_bbox=False), "reg_decoded_bbox must be True"),
    ("RetinaSepBNHead", dict(num_ins=2, init_cfg=dict(type="Normal")), "init_cfg must be None")])
def test_a_head_says_what_is_wrong(kind, kwargs, message):
    with pytest.raises(ValueError, match=message):
        head(kind, **kwargs)


@pytest.mark.parametrize(("weight", "product"), [(1.0, False), (1, False), (0.5, True)])
def test_a_weight_of_one_is_no_product(weight, product):
    loss = build_loss(dict(type="L1Loss", loss_weight=weight))(
        torch.ones(2, 3, requires_grad=True), torch.zeros(2, 3))
    assert loss.item() == weight
    assert loss.grad_fn.name().startswith("Mul") == product


def test_levels_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"of the same levels, got \[2, 3, 3, 3\]"):
        build_head(dict(type="YOLOV3Head", num_classes=3, in_channels=[8, 8]))
    yolof = head("YOLOFHead", anchor_generator=dict(ANCHORS, strides=[32]))
    with pytest.raises(ValueError, match="YOLOFHead works on one level, got 2"):
        yolof.loss([torch.zeros(1)] * 2, [], [], [], [])
    centre = build_head(dict(type="CenterNetHead", in_channel=8, feat_channel=8, num_classes=3))
    with pytest.raises(ValueError, match="CenterNetHead works on one map, got 2"):
        centre.loss([torch.zeros(1)] * 2, [], [], [], [], [])


def test_lad_needs_its_teacher():
    lad = head("LADHead", stacked_convs=1, feat_channels=32, anchor_generator=ANCHORS)
    with pytest.raises(TypeError, match="label_assignment_results"):
        lad.loss([], [], [], [], [], [])
    with pytest.raises(ValueError, match="no test-time augmentation"):
        lad.get_bboxes(img_metas=[], with_nms=False)


def test_ld_has_its_loss_by_default():
    loss = build_loss(dict(type="LocalizationDistillationLoss", loss_weight=0.25, T=10))
    assert (type(loss).__name__, loss.T) == ("KnowledgeDistillationKLDivLoss", 10)


def test_paa_keeps_the_likelier_candidates_and_none_of_one():
    """Up to the likeliest of the low losses; a gt with a single candidate keeps none."""
    paa = head("PAAHead", stacked_convs=1, feat_channels=32, anchor_generator=ANCHORS)
    inf = float("inf")
    kept = paa.separate(torch.tensor([[0.1, 0.2, 0.3, 5.0, 5.1], [0.3, inf, inf, inf, inf]],
                                     dtype=torch.float64).numpy())
    assert kept.tolist() == [[True, True, False, False, False], [False] * 5]


@pytest.fixture(scope="module")
def student():
    gfl = dict(num_classes=3, in_channels=8, stacked_convs=1, feat_channels=32, reg_max=4,
               anchor_generator=ANCHORS,
               loss_cls=dict(type="QualityFocalLoss"), loss_bbox=dict(type="GIoULoss"))
    return build_detector(dict(
        type="KnowledgeDistillationSingleStageDetector", backbone=BACKBONE, neck=dict(
            FPN, in_channels=[8, 16]), bbox_head=dict(type="LDHead", **gfl),
        teacher_config=dict(model=dict(
            type="GFL", backbone=BACKBONE, neck=dict(FPN, in_channels=[8, 16]),
            bbox_head=dict(type="GFLHead", **gfl)))))


def test_a_teacher_follows_but_is_no_part(student):
    assert not any("teacher" in key for key in student.state_dict())
    mine = {id(p) for p in student.parameters()}
    assert not mine & {id(p) for p in student.teacher_model.parameters()}
    student.train()
    assert not student.teacher_model.training
    student.double()
    assert next(student.teacher_model.parameters()).dtype == torch.float64
    student.float()


def test_a_yolox_changes_its_size_every_few_steps(monkeypatch):
    """The boxes grow with the image; nothing that was given is written to."""
    model = build_detector(dict(
        type="YOLOX", backbone=dict(type="CSPDarknet", deepen_factor=0.1, widen_factor=0.125),
        neck=dict(type="YOLOXPAFPN", in_channels=[32, 64, 128], out_channels=8, num_csp_blocks=1),
        bbox_head=dict(type="YOLOXHead", num_classes=3, in_channels=8, feat_channels=8),
        train_cfg=dict(assigner=dict(type="SimOTAAssigner")), input_size=(64, 128),
        random_size_range=(1, 3), random_size_interval=2))
    seen = []
    head = model.bbox_head
    monkeypatch.setattr(head, "forward_train", lambda x, metas, boxes, *rest: seen.append(
        (tuple(x[0].shape[-2:]), boxes[0].tolist())) or {})
    monkeypatch.setattr(random, "randint", lambda low, high: high)
    boxes = torch.tensor([[8.0, 8.0, 40.0, 40.0]])
    for _ in range(3):
        model.forward_train(torch.rand(1, 3, 64, 128), [{}], [boxes], [torch.tensor([1])])
    assert seen == [((8, 16), [[8, 8, 40, 40]])] * 2 + [((12, 24), [[12, 12, 60, 60]])]
    assert boxes.tolist() == [[8, 8, 40, 40]]


def test_centernet_tests_views_in_pairs():
    model = build_detector(dict(
        type="CenterNet", backbone=BACKBONE, neck=None, bbox_head=dict(
            type="CenterNetHead", in_channel=8, feat_channel=8, num_classes=3),
        test_cfg=dict(topk=5, local_maximum_kernel=3, max_per_img=5)))
    with pytest.raises(ValueError, match=r"pairs .* got flip=\[False, False\]"):
        model.aug_test([torch.zeros(1, 3, 8, 8)] * 2, [[dict(flip=False)]] * 2)
