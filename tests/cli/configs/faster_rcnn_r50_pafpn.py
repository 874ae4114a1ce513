_base_ = './faster_rcnn_r50_fpn.py'
model = dict(neck=dict(type='PAFPN', add_extra_convs='on_output'))
