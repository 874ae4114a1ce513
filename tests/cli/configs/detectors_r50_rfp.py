_base_ = './faster_rcnn_r50_fpn.py'
backbone = dict(
    type='DetectoRS_ResNet',
    depth=50,
    base_channels=8,
    num_stages=4,
    out_indices=(0, 1, 2, 3),
    frozen_stages=1,
    norm_cfg=dict(type='BN', requires_grad=True),
    norm_eval=True,
    conv_cfg=dict(type='ConvAWS'),
    sac=dict(type='SAC', use_deform=True),
    stage_with_sac=(False, True, True, True),
    pretrained='torchvision://resnet50')
model = dict(
    backbone=dict(_delete_=True, output_img=True, **backbone),
    neck=dict(
        type='RFP',
        rfp_steps=2,
        aspp_out_channels=16 // 4,
        aspp_dilations=(1, 3, 6, 1),
        rfp_backbone=dict(rfp_inplanes=16, **backbone)))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='MultiScaleFlipAug',
        img_scale=(640, 640),
        flip=False,
        transforms=[
            dict(type='Resize', keep_ratio=True),
            dict(type='Normalize', mean=[103.53, 116.28, 123.675], std=[1.0] * 3, to_rgb=False),
            dict(type='Pad', size_divisor=128),
        ])
]
data = dict(test=dict(pipeline=test_pipeline))
