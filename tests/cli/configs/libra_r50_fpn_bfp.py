_base_ = './faster_rcnn_r50_fpn.py'
model = dict(neck=[
    dict(type='FPN', in_channels=[32, 64, 128, 256], out_channels=16, num_outs=5),
    dict(type='BFP', in_channels=16, num_levels=5, refine_level=2, refine_type='non_local')
])
