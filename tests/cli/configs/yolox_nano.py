widen_factor = 0.125
model = dict(
    type='YOLOX',
    input_size=(640, 640),
    random_size_range=(15, 25),
    backbone=dict(
        type='CSPDarknet', deepen_factor=0.33, widen_factor=widen_factor, use_depthwise=True),
    neck=dict(
        type='YOLOXPAFPN',
        in_channels=[32, 64, 128],
        out_channels=32,
        num_csp_blocks=1,
        use_depthwise=True))
