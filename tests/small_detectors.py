"""Detectors of a few thousand weights, for tests of what is traced rather than of numbers."""


from fastdet.models import build_detector
from fastdet.testing import golden

BACKBONE = dict(type="ResNet", depth=18, base_channels=8, num_stages=3, strides=(1, 2, 2),
                dilations=(1, 1, 1), out_indices=(1, 2), norm_eval=True)
NECK = dict(type="FPN", in_channels=[16, 32], out_channels=16, num_outs=3)
CODER = dict(type="DeltaXYWHBBoxCoder", target_stds=[0.1, 0.1, 0.2, 0.2])
SUPPRESSED = dict(score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=20)


def _pool(size):
    return dict(type="SingleRoIExtractor", out_channels=16, featmap_strides=[8, 16],
                roi_layer=dict(type="RoIAlign", output_size=size, sampling_ratio=0))


def _anchors(scale):
    return dict(type="AnchorGenerator", scales=[scale], ratios=[0.5, 1.0], strides=[8, 16, 32])


def _assigner(pos, neg):
    return dict(type="MaxIoUAssigner", pos_iou_thr=pos, neg_iou_thr=neg, min_pos_iou=0)


def _sampler(num):
    return dict(type="RandomSampler", num=num, pos_fraction=0.5, neg_pos_ub=-1,
                add_gt_as_proposals=num < 64)


ANCHORED = dict(assigner=_assigner(0.5, 0.4), allowed_border=-1, pos_weight=-1)
PROPOSED = dict(nms_pre=100, max_per_img=40, nms=dict(type="nms", iou_threshold=0.7),
                min_bbox_size=0)
HEATED = dict(type="GaussianFocalLoss", loss_weight=1.0)

CONFIGS = {
    "retinanet": dict(
        type="RetinaNet", backbone=BACKBONE, neck=NECK,
        bbox_head=dict(type="RetinaHead", num_classes=5, in_channels=16, feat_channels=16,
                       stacked_convs=1, anchor_generator=_anchors(4), bbox_coder=CODER,
                       loss_cls=dict(type="FocalLoss", use_sigmoid=True)),
        train_cfg=ANCHORED, test_cfg=dict(SUPPRESSED, nms_pre=100)),
    "fcos": dict(
        type="FCOS", backbone=BACKBONE, neck=NECK,
        bbox_head=dict(type="FCOSHead", num_classes=5, in_channels=16, feat_channels=16,
                       stacked_convs=1, strides=[8, 16, 32], norm_cfg=None,
                       regress_ranges=((-1, 32), (32, 64), (64, 1e8))),
        test_cfg=dict(SUPPRESSED, nms_pre=100)),
    "centernet": dict(
        type="CenterNet",
        backbone=dict(type="ResNet", depth=18, base_channels=8, norm_eval=True),
        neck=dict(type="CTResNetNeck", in_channel=64, num_deconv_filters=(16, 16, 8),
                  num_deconv_kernels=(4, 4, 4), use_dcn=False),
        bbox_head=dict(type="CenterNetHead", num_classes=5, in_channel=8, feat_channel=8,
                       loss_center_heatmap=HEATED),
        test_cfg=dict(topk=20, local_maximum_kernel=3, max_per_img=20)),
    "faster-rcnn": dict(
        type="FasterRCNN", backbone=BACKBONE, neck=NECK,
        rpn_head=dict(type="RPNHead", in_channels=16, feat_channels=16,
                      anchor_generator=_anchors(4), bbox_coder=CODER),
        roi_head=dict(
            type="StandardRoIHead", bbox_roi_extractor=_pool(7),
            bbox_head=dict(type="Shared2FCBBoxHead", in_channels=16, fc_out_channels=32,
                           num_classes=5, bbox_coder=CODER)),
        train_cfg=dict(
            rpn=dict(assigner=_assigner(0.7, 0.3), sampler=_sampler(64), allowed_border=-1,
                     pos_weight=-1),
            rpn_proposal=PROPOSED,
            rcnn=dict(assigner=_assigner(0.5, 0.5), sampler=_sampler(32), pos_weight=-1)),
        test_cfg=dict(rpn=PROPOSED, rcnn=SUPPRESSED)),
}
_FASTER = CONFIGS["faster-rcnn"]
CONFIGS["mask-rcnn"] = dict(
    _FASTER, type="MaskRCNN", train_cfg=None,
    roi_head=dict(
        _FASTER["roi_head"], mask_roi_extractor=_pool(14),
        mask_head=dict(type="FCNMaskHead", num_convs=1, in_channels=16, conv_out_channels=16,
                       num_classes=5)),
    test_cfg=dict(rpn=PROPOSED, rcnn=dict(SUPPRESSED, mask_thr_binary=0.5)))


def build(name):
    """A detector by name, with weights that are the same everywhere."""
    model = build_detector(CONFIGS[name])
    golden.fill(model)
    return model.float()
