# A ResNet-50 an eighth as wide as usual: its maps have 32, 64, 128 and 256 channels.
base = 8
model = dict(
    backbone=dict(
        type='ResNet',
        depth=50,
        base_channels=base,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=True,
        style='pytorch',
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')))
