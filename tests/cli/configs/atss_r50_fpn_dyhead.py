_base_ = ['./_base_/resnet50.py']
channels = 2 * 16
strides = [8, 16, 32, 64, 128]
model = dict(
    type='ATSS',
    neck=[
        dict(
            type='FPN',
            in_channels=[32, 64, 128, 256],
            out_channels=channels,
            start_level=1,
            add_extra_convs='on_output',
            num_outs=5),
        dict(type='DyHead', in_channels=channels, out_channels=channels, num_blocks=2)
    ],
    bbox_head=dict(
        type='ATSSHead',
        anchor_generator=dict(
            type='AnchorGenerator',
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=strides)))
