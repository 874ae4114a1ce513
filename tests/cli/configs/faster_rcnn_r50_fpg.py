_base_ = './faster_rcnn_r50_fpn.py'
norm_cfg = dict(type='BN', requires_grad=True)
stacks = 3
act_first = dict(norm_cfg=norm_cfg, inplace=False, order=('act', 'conv', 'norm'))
model = dict(
    neck=dict(
        _delete_=True,
        type='FPG',
        in_channels=[32, 64, 128, 256],
        out_channels=16,
        inter_channels=16,
        num_outs=5,
        add_extra_convs=True,
        stack_times=stacks,
        paths=['bu'] * stacks,
        norm_cfg=norm_cfg,
        same_down_trans=None,
        same_up_trans=dict(type='conv', kernel_size=3, stride=2, padding=1, **act_first),
        across_lateral_trans=dict(type='conv', kernel_size=1, **act_first),
        across_down_trans=dict(
            type='interpolation_conv', mode='nearest', kernel_size=3, **act_first),
        across_up_trans=None,
        across_skip_trans=dict(type='conv', kernel_size=1, **act_first),
        output_trans=dict(type='last_conv', kernel_size=3, **act_first),
        skip_inds=[(0, 1, 2, 3), (0, 1, 2), (0, 1), (0, ), ()]))
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='MultiScaleFlipAug',
        img_scale=(640, 640),
        flip=False,
        transforms=[
            dict(type='Resize', keep_ratio=True),
            dict(type='Normalize', mean=[0.0] * 3, std=[255.0] * 3, to_rgb=True),
            dict(type='Pad', size_divisor=2**7),
        ])
]
data = dict(test=dict(pipeline=test_pipeline))
