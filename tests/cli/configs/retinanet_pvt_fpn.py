_base_ = './retinanet_r50_fpn.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='PyramidVisionTransformer',
        embed_dims=8,
        num_layers=[1, 1, 1, 1],
        pretrain_img_size=64,
        init_cfg=dict(checkpoint='https://example.org/pvt.pth')),
    neck=dict(in_channels=[8, 16, 40, 64]))
