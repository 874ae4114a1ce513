width = 16
model = dict(
    type='CenterNet',
    backbone=dict(
        type='ResNet',
        depth=18,
        base_channels=width,
        out_indices=(3, ),
        norm_eval=False,
        norm_cfg=dict(type='BN')),
    neck=dict(
        type='CTResNetNeck',
        in_channel=width * 8,
        num_deconv_filters=(width * 4, width * 2, width),
        num_deconv_kernels=(4, 4, 4),
        use_dcn=True))
