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
