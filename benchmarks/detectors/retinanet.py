"""A training step of RetinaNet on a ResNet-50: features, targets and losses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..entry import Entry, Inputs, Provider, by_reference

_CONFIG: dict[str, Any] = {
    "type": "RetinaNet",
    "backbone": {"type": "ResNet", "depth": 50, "norm_eval": True},
    "neck": {"type": "FPN", "in_channels": [256, 512, 1024, 2048], "out_channels": 256,
             "start_level": 1, "add_extra_convs": "on_input", "num_outs": 5},
    "bbox_head": {
        "type": "RetinaHead", "num_classes": 80, "in_channels": 256, "stacked_convs": 4,
        "feat_channels": 256,
        "anchor_generator": {"type": "AnchorGenerator", "octave_base_scale": 4,
                             "scales_per_octave": 3, "ratios": [0.5, 1.0, 2.0],
                             "strides": [8, 16, 32, 64, 128]},
        "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
        "loss_cls": {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25,
                     "loss_weight": 1.0},
        "loss_bbox": {"type": "L1Loss", "loss_weight": 1.0}},
    "train_cfg": {"assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4,
                               "min_pos_iou": 0, "ignore_iof_thr": -1},
                  "allowed_border": -1, "pos_weight": -1, "debug": False},
}


def _make(*, dtype: torch.dtype, device: torch.device, B: int, H: int, W: int, gts: int = 12,
          depth: int = 50, base: int = 64, channels: int = 256) -> Inputs:
    from fastdet.models import build_detector

    torch.manual_seed(0)
    widths = [base * (4 if depth >= 50 else 1) * 2**i for i in range(4)]
    config = {
        **_CONFIG, "backbone": {**_CONFIG["backbone"], "depth": depth, "base_channels": base},
        "neck": {**_CONFIG["neck"], "in_channels": widths,
                 "out_channels": channels},
        "bbox_head": {**_CONFIG["bbox_head"], "in_channels": channels,
                      "feat_channels": channels}}
    model: Any = build_detector(config)
    model.init_weights()
    corner = torch.rand(B, gts, 2) * torch.tensor([0.7 * W, 0.7 * H])
    size = (torch.rand(B, gts, 2) * 0.25 + 0.05) * torch.tensor([W, H])
    boxes = torch.cat([corner, corner + size], -1).to(device)
    meta = {"img_shape": (H, W, 3), "pad_shape": (H, W, 3), "ori_shape": (H, W, 3),
            "scale_factor": 1.0, "flip": False}
    return {"model": model.to(device).train(), "img": torch.randn(B, 3, H, W, device=device),
            "metas": [dict(meta) for _ in range(B)], "boxes": list(boxes),
            "labels": [torch.randint(80, (gts,), device=device) for _ in range(B)],
            "amp": None if dtype == torch.float32 else dtype}


def _run(x: Inputs) -> list[Tensor]:
    with torch.autocast(x["img"].device.type, dtype=x["amp"], enabled=x["amp"] is not None):
        losses = x["model"].forward_train(x["img"], x["metas"], x["boxes"], x["labels"])
    return [loss for part in losses.values() for loss in
            (part if isinstance(part, (list, tuple)) else [part])]


ENTRY = Entry(
    name="retinanet",
    kind="detector",
    shapes={"800x1344_b2": {"B": 2, "H": 800, "W": 1344}},
    cpu={"256x320_b2": {"B": 2, "H": 256, "W": 320}},
    tiny={"B": 2, "H": 64, "W": 96, "gts": 3, "depth": 18, "base": 8, "channels": 8},
    make=_make,
    providers={"eager": Provider(_run, context=by_reference, capturable=False),
               "fastdet": Provider(_run, capturable=False)},
    dtypes=("fp32", "bf16"),
    kernels=("focal_losses_", "max_iou_assign_"),
)
