"""Boxes side by side, by buckets (SABL, arXiv 1912.04260)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.core.bbox import build_bbox_coder
from fastdet.core.bbox.samplers.samples import Samples
from fastdet.runner import ModuleList, force_fp32

from ...builder import HEADS, build_loss
from ...losses.utils import at_least_float32
from .region_head import RegionHead

__all__ = ["SABLHead"]

#: Logits of the buckets and offsets in them, [N, 4 S] each.
Sides = tuple[Tensor, Tensor]


@HEADS.register_module()
class SABLHead(RegionHead):
    """Each side of a box: which of S buckets it is in, and where in that.

    Args:
        num_classes: foreground classes.
        cls_in_channels: of the pooled regions, for the classes.
        reg_in_channels: of the pooled regions, for the sides.
        roi_feat_size: of the pooled regions.
        reg_feat_up_ratio: how much longer the rows and columns become.
        reg_pre_kernel: of the convolutions before rows and columns are made.
        reg_post_kernel: of those after it.
        reg_pre_num: how many before it.
        reg_post_num: how many after it.
        cls_out_channels: of the linear layers of the classes.
        reg_offset_out_channels: of the linear layers of the offsets.
        reg_cls_out_channels: of the linear layers of the buckets.
        num_cls_fcs: linear layers of the classes.
        num_reg_fcs: linear layers of the offsets, and of the buckets.
        reg_class_agnostic: must be true.
        norm_cfg: config of the norms.
        bbox_coder: its config; ``num_buckets`` is ``roi_feat_size * reg_feat_up_ratio``.
        loss_cls: config of the classification loss.
        loss_bbox_cls: config of the loss of the buckets, with a sigmoid.
        loss_bbox_reg: config of the loss of the offsets.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: an argument does not fit the others.
    """

    def __init__(self, num_classes: int, cls_in_channels: int = 256, reg_in_channels: int = 256,
                 roi_feat_size: int = 7, reg_feat_up_ratio: int = 2, reg_pre_kernel: int = 3,
                 reg_post_kernel: int = 3, reg_pre_num: int = 2, reg_post_num: int = 1,
                 cls_out_channels: int = 1024, reg_offset_out_channels: int = 256,
                 reg_cls_out_channels: int = 256, num_cls_fcs: int = 1, num_reg_fcs: int = 0,
                 reg_class_agnostic: bool = True, norm_cfg: Any = None,
                 bbox_coder: dict[str, Any] = dict(type="BucketingBBoxCoder", num_buckets=14,
                                                   scale_factor=1.7),
                 loss_cls: dict[str, Any] = dict(type="CrossEntropyLoss", use_sigmoid=False,
                                                 loss_weight=1.0),
                 loss_bbox_cls: dict[str, Any] = dict(type="CrossEntropyLoss", use_sigmoid=True,
                                                      loss_weight=1.0),
                 loss_bbox_reg: dict[str, Any] = dict(type="SmoothL1Loss", beta=0.1,
                                                      loss_weight=1.0),
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.up_reg_feat_size = roi_feat_size * reg_feat_up_ratio
        if bbox_coder["num_buckets"] != self.up_reg_feat_size:
            raise ValueError(f"SABLHead: num_buckets must be roi_feat_size * reg_feat_up_ratio = "
                             f"{self.up_reg_feat_size}, got {bbox_coder['num_buckets']}")
        if not reg_class_agnostic or not loss_bbox_cls["use_sigmoid"]:
            raise ValueError("SABLHead: reg_class_agnostic and use_sigmoid of loss_bbox_cls must "
                             "be true")
        self.cls_in_channels = cls_in_channels
        self.reg_in_channels = reg_in_channels
        self.roi_feat_size = roi_feat_size
        self.reg_feat_up_ratio = reg_feat_up_ratio
        self.num_buckets = bbox_coder["num_buckets"]
        self.side_num = math.ceil(self.num_buckets / 2)
        self.num_classes = num_classes
        self.reg_class_agnostic = reg_class_agnostic
        self.reg_pre_num, self.reg_post_num = reg_pre_num, reg_post_num
        self.num_cls_fcs, self.num_reg_fcs = num_cls_fcs, num_reg_fcs
        self.cls_out_channels = cls_out_channels
        self.reg_offset_out_channels = reg_offset_out_channels
        self.reg_cls_out_channels = reg_cls_out_channels
        self.norm_cfg = norm_cfg
        self.fp16_enabled = False
        self.bbox_coder: Any = build_bbox_coder(bbox_coder)
        self.loss_cls = build_loss(loss_cls)
        self.loss_bbox_cls: Any = build_loss(loss_bbox_cls)
        self.loss_bbox_reg: Any = build_loss(loss_bbox_reg)

        def fcs(num: int, width: int, out: int) -> ModuleList:
            widths = [width] + [out] * num
            return ModuleList([nn.Linear(*pair) for pair in pairwise(widths)])

        def convs(num: int, kernel: tuple[int, int]) -> ModuleList:
            return ModuleList([
                ConvModule(reg_in_channels, reg_in_channels, kernel,
                           padding=(kernel[0] // 2, kernel[1] // 2), norm_cfg=norm_cfg)
                for _ in range(num)])

        width = cls_in_channels * roi_feat_size ** 2
        self.cls_fcs = fcs(num_cls_fcs, width, cls_out_channels)
        if reg_feat_up_ratio > 1:
            self.upsample_x = nn.ConvTranspose1d(reg_in_channels, reg_in_channels,
                                                 reg_feat_up_ratio, stride=reg_feat_up_ratio)
            self.upsample_y = nn.ConvTranspose1d(reg_in_channels, reg_in_channels,
                                                 reg_feat_up_ratio, stride=reg_feat_up_ratio)
        self.reg_pre_convs = convs(reg_pre_num, (reg_pre_kernel, reg_pre_kernel))
        self.reg_post_conv_xs = convs(reg_post_num, (1, reg_post_kernel))
        self.reg_post_conv_ys = convs(reg_post_num, (reg_post_kernel, 1))
        self.reg_conv_att_x = nn.Conv2d(reg_in_channels, 1, 1)
        self.reg_conv_att_y = nn.Conv2d(reg_in_channels, 1, 1)
        self.fc_cls = nn.Linear(cls_out_channels if num_cls_fcs else width, num_classes + 1)
        self.relu = nn.ReLU(inplace=True)
        self.reg_cls_fcs = fcs(num_reg_fcs, reg_in_channels, reg_cls_out_channels)
        self.reg_offset_fcs = fcs(num_reg_fcs, reg_in_channels, reg_offset_out_channels)
        self.fc_reg_cls = nn.Linear(reg_cls_out_channels if num_reg_fcs else reg_in_channels, 1)
        self.fc_reg_offset = nn.Linear(
            reg_offset_out_channels if num_reg_fcs else reg_in_channels, 1)
        if init_cfg is None:
            self.init_cfg = [
                dict(type="Xavier", layer="Linear", distribution="uniform",
                     override=[dict(type="Normal", name="reg_conv_att_x", std=0.01),
                               dict(type="Normal", name="reg_conv_att_y", std=0.01),
                               dict(type="Normal", name="fc_reg_cls", std=0.01),
                               dict(type="Normal", name="fc_cls", std=0.01),
                               dict(type="Normal", name="fc_reg_offset", std=0.001)]),
                *([dict(type="Kaiming", layer="ConvTranspose1d",
                        override=[dict(name="upsample_x"), dict(name="upsample_y")])]
                  * (reg_feat_up_ratio > 1)),
                dict(type="Kaiming", layer="Conv2d")]

    # --- the network ------------------------------------------------------------------------
    def side_aware_feature_extractor(self, reg_x: Tensor) -> tuple[Tensor, Tensor]:
        """Regions [N, C, h, w] to rows [N, S', C] along x and along y."""
        for conv in self.reg_pre_convs:
            reg_x = conv(reg_x)
        out = []
        for axis, attention, convs, name in (
                (2, self.reg_conv_att_x, self.reg_post_conv_xs, "upsample_x"),
                (3, self.reg_conv_att_y, self.reg_post_conv_ys, "upsample_y")):
            weight = attention(reg_x).sigmoid()
            row = (reg_x * (weight / weight.sum(axis, keepdim=True))).sum(axis, keepdim=True)
            for conv in convs:
                row = conv(row)
            row = row.squeeze(axis)
            if self.reg_feat_up_ratio > 1:
                row = self.relu(getattr(self, name)(row))
            out.append(row.transpose(1, 2))
        return out[0], out[1]

    def side_aware_split(self, feat: Tensor) -> Tensor:
        """[N, S'] to the near half and the far half, each from its side inwards, [N, 2 S]."""
        start = self.up_reg_feat_size // 2
        return torch.cat([feat[:, :math.ceil(self.up_reg_feat_size / 2)],
                          feat[:, start:].flip(1)], dim=1)

    def cls_forward(self, cls_x: Tensor) -> Tensor:
        """Logits [N, num_classes + 1] of regions [N, C, h, w]."""
        cls_x = cls_x.flatten(1)
        for fc in self.cls_fcs:
            cls_x = self.relu(fc(cls_x))
        return self.fc_cls(cls_x)

    def reg_forward(self, reg_x: Tensor) -> Sides:
        """Logits of the buckets and offsets, [N, 4 S] each: left, right, top, bottom."""
        rows = self.side_aware_feature_extractor(reg_x)
        out = []
        for fcs, last in ((self.reg_cls_fcs, self.fc_reg_cls),
                          (self.reg_offset_fcs, self.fc_reg_offset)):
            sides = []
            for row in rows:
                for fc in fcs:
                    row = self.relu(fc(row))
                sides.append(self.side_aware_split(last(row)[..., 0]))
            out.append(torch.cat(sides, dim=1))
        return out[0], out[1]

    def forward(self, x: Tensor) -> tuple[Tensor, Sides]:
        """Logits, and buckets with offsets, of regions [N, C, h, w]."""
        return self.cls_forward(x), self.reg_forward(x)

    # --- training ---------------------------------------------------------------------------
    def targets(self, samples: Samples, cfg: Any) -> tuple[Tensor, ...]:
        """Labels and weights, buckets and weights, offsets and weights of each row."""
        labels, _ = self.label_targets(samples, cfg)
        pos = samples.pos.flatten()[:, None]
        unit = samples.boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
        boxes = torch.where(pos, samples.boxes.flatten(0, 1), unit)
        gts = torch.where(pos, samples.gt_boxes.flatten(0, 1).to(boxes.dtype), unit)
        offsets, offset_weights, buckets, bucket_weights = (
            torch.where(pos, t, 0.0) for t in self.bbox_coder.encode(boxes, gts))
        return (labels, samples.valid.flatten().to(boxes.dtype), buckets, bucket_weights, offsets,
                offset_weights)

    def get_targets(self, sampling_results: Any, gt_bboxes: Any, gt_labels: Any,
                    rcnn_train_cfg: Any, concat: bool = True) -> Any:
        """Labels [N], their weights [N], and (buckets, offsets) and their weights [N, 4 S]."""
        labels, weights, buckets, bucket_weights, offsets, offset_weights = super().get_targets(
            sampling_results, gt_bboxes, gt_labels, rcnn_train_cfg, concat)
        return labels, weights, (buckets, offsets), (bucket_weights, offset_weights)

    @force_fp32(apply_to=("cls_score", "bbox_pred"))
    def loss(self, cls_score: Tensor | None, bbox_pred: Sides | None, rois: Tensor,
             labels: Tensor, label_weights: Tensor, bbox_targets: Sides, bbox_weights: Sides,
             reduction_override: str | None = None,
             num_rois: Tensor | None = None) -> dict[str, Any]:
        """Losses of regions.

        Args:
            cls_score: [N, num_classes + 1].
            bbox_pred: logits of the buckets and offsets, [N, 4 S] each.
            rois: [N, 5].
            labels: [N].
            label_weights: [N].
            bbox_targets: buckets and offsets, [N, 4 S] each.
            bbox_weights: theirs.
            reduction_override: in place of the losses' own reduction.
            num_rois: what the box losses are divided by, where some of the N are padding.

        Returns:
            ``loss_cls`` and ``acc``, ``loss_bbox_cls``, ``loss_bbox_reg``.
        """
        losses = self.class_losses(cls_score, labels, label_weights, reduction_override)
        if bbox_pred is None:
            return losses
        total = len(labels) if num_rois is None else at_least_float32(
            num_rois.to(bbox_pred[0].dtype))
        logits, buckets, weights = (
            t.reshape(-1, self.side_num) for t in (bbox_pred[0], bbox_targets[0], bbox_weights[0]))
        losses["loss_bbox_cls"] = self.loss_bbox_cls(
            logits, buckets, weights, avg_factor=4 * total,
            reduction_override=reduction_override)
        losses["loss_bbox_reg"] = self.loss_bbox_reg(
            bbox_pred[1], bbox_targets[1], bbox_weights[1], avg_factor=total,
            reduction_override=reduction_override)
        return losses

    # --- detections -------------------------------------------------------------------------
    def decoded(self, rois: Tensor, bbox_pred: Sides,
                max_shape: Any) -> tuple[Tensor, Tensor | None]:
        """Boxes [N, 4] of RoIs [N, 5], and how sure the buckets are, [N]."""
        return self.bbox_coder.decode(rois[:, 1:], bbox_pred, max_shape)

    def bbox_pred_split(self, bbox_pred: Sides, num_proposals_per_img: Sequence[int]) -> Any:
        """Predictions of all images to those of each."""
        return tuple(zip(*(t.split(list(num_proposals_per_img), 0) for t in bbox_pred)))

    def regress_by_class(self, rois: Tensor, label: Tensor, bbox_pred: Sides,
                         img_meta: dict[str, Any]) -> Tensor:
        """RoIs moved to their box; see ``BBoxHead``. ``label`` is not used."""
        if rois.size(1) not in (4, 5):
            raise ValueError("regress_by_class: rois must be [N, 4] or [N, 5], got "
                             f"{list(rois.shape)}")
        boxes, _ = self.bbox_coder.decode(rois[:, -4:], bbox_pred, img_meta["img_shape"])
        return torch.cat([rois[:, :-4], boxes], dim=1)
