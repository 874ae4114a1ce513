"""Models that ``fastdet features --model`` knows by name, as MMDetection configures them."""

from __future__ import annotations

import copy
from typing import Any

__all__ = ["PRESETS", "preset"]


def _fpn(*in_channels: int) -> dict[str, Any]:
    return dict(type="FPN", in_channels=list(in_channels), out_channels=256, num_outs=5)


def _resnet(depth: int, kind: str = "ResNet", **kwargs: Any) -> dict[str, Any]:
    return dict(
        backbone=dict(type=kind, depth=depth, num_stages=4, out_indices=(0, 1, 2, 3),
                      frozen_stages=1, norm_cfg=dict(type="BN", requires_grad=True),
                      norm_eval=True, style="pytorch", **kwargs),
        neck=_fpn(64, 128, 256, 512) if depth < 50 else _fpn(256, 512, 1024, 2048))


def _swin(dims: int, depths: list[int], heads: list[int]) -> dict[str, Any]:
    return dict(
        backbone=dict(type="SwinTransformer", embed_dims=dims, depths=depths, num_heads=heads,
                      window_size=7, mlp_ratio=4, qkv_bias=True, drop_path_rate=0.2,
                      patch_norm=True, out_indices=(0, 1, 2, 3)),
        neck=_fpn(*(dims << i for i in range(4))))


#: Name -> what it is, and its ``model`` config.
PRESETS: dict[str, tuple[str, dict[str, Any]]] = {
    "swin_t_fpn": ("Swin-T and FPN, 5 levels", _swin(96, [2, 2, 6, 2], [3, 6, 12, 24])),
    "swin_s_fpn": ("Swin-S and FPN, 5 levels", _swin(96, [2, 2, 18, 2], [3, 6, 12, 24])),
    "r18_fpn": ("ResNet-18 and FPN, 5 levels", _resnet(18)),
    "r50_fpn": ("ResNet-50 and FPN, 5 levels", _resnet(50)),
    "r101_fpn": ("ResNet-101 and FPN, 5 levels", _resnet(101)),
    "x101_64x4d_fpn": ("ResNeXt-101 64x4d and FPN, 5 levels",
                       _resnet(101, "ResNeXt", groups=64, base_width=4)),
    "pvt_v2_b0_fpn": ("PVTv2-B0 and FPN, 5 levels", dict(
        backbone=dict(type="PyramidVisionTransformerV2", embed_dims=32, num_layers=[2, 2, 2, 2]),
        neck=_fpn(32, 64, 160, 256))),
}


def preset(name: str) -> dict[str, Any]:
    """A copy of the ``model`` config behind a name."""
    return copy.deepcopy(PRESETS[name][1])
