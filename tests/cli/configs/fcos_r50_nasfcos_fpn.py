_base_ = './retinanet_r50_fpn.py'
model = dict(
    type='NASFCOS',
    neck=dict(
        _delete_=True,
        type='NASFCOS_FPN',
        in_channels=[32, 64, 128, 256],
        out_channels=16,
        start_level=1,
        add_extra_convs=True,
        num_outs=5,
        norm_cfg=dict(type='BN'),
        conv_cfg=dict(type='DCNv2', deform_groups=2)),
    bbox_head=dict(_delete_=True, type='NASFCOSHead', strides=[8, 16, 32, 64, 128]))
