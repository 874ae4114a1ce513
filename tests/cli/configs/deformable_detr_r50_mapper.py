_base_ = './_base_/resnet50.py'
model = dict(
    type='DeformableDETR',
    backbone=dict(out_indices=(1, 2, 3)),
    neck=dict(
        type='ChannelMapper',
        in_channels=[64, 128, 256],
        kernel_size=1,
        out_channels=32,
        act_cfg=None,
        norm_cfg=dict(type='GN', num_groups=8),
        num_outs=4))
