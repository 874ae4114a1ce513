_base_ = './_base_/resnet50.py'
model = dict(
    type='YOLOF',
    backbone=dict(out_indices=(3, )),
    neck=dict(
        type='DilatedEncoder',
        in_channels=256,
        out_channels=32,
        block_mid_channels=8,
        num_residual_blocks=4,
        block_dilations=[2, 4, 6, 8]),
    bbox_head=dict(
        type='YOLOFHead',
        anchor_generator=dict(
            type='AnchorGenerator', ratios=[1.0], scales=[1, 2, 4, 8, 16], strides=[32])))
