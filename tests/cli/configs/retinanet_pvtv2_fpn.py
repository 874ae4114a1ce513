_base_ = './retinanet_pvt_fpn.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='PyramidVisionTransformerV2',
        embed_dims=8,
        num_layers=[1, 1, 1, 1],
        mlp_ratios=(4, 4, 4, 4)))
