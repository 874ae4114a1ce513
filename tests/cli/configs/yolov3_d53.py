anchors = [[(116, 90), (156, 198), (373, 326)], [(30, 61), (62, 45), (59, 119)],
           [(10, 13), (16, 30), (33, 23)]]
model = dict(
    type='YOLOV3',
    backbone=dict(
        type='Darknet',
        depth=53,
        out_indices=(3, 4, 5),
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://darknet53')),
    neck=dict(
        type='YOLOV3Neck',
        num_scales=3,
        in_channels=[1024, 512, 256],
        out_channels=[32, 16, 8]),
    bbox_head=dict(
        type='YOLOV3Head',
        anchor_generator=dict(
            type='YOLOAnchorGenerator', base_sizes=anchors, strides=[32, 16, 8])))
img_norm_cfg = dict(mean=[0, 0, 0], std=[255., 255., 255.], to_rgb=True)
