_base_ = './retinanet_r50_fpn.py'
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    neck=dict(
        _delete_=True,
        type='NASFPN',
        in_channels=[32, 64, 128, 256],
        out_channels=16,
        num_outs=5,
        stack_times=2,
        start_level=1,
        add_extra_convs='on_input',
        norm_cfg=norm_cfg))
img_norm_cfg = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='MultiScaleFlipAug',
        img_scale=(640, 640),
        flip=False,
        transforms=[
            dict(type='Resize', keep_ratio=True),
            dict(type='Normalize', **img_norm_cfg),
            dict(type='Pad', size_divisor=128),
        ])
]
data = dict(test=dict(pipeline=test_pipeline))
