"""Classes and boxes of regions (Fast R-CNN, arXiv 1504.08083)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from fastdet.core.bbox import build_bbox_coder
from fastdet.core.bbox.samplers.samples import Samples
from fastdet.runner import force_fp32

from ...builder import HEADS, build_loss
from ...losses.utils import at_least_float32
from ...utils import build_linear_layer
from .region_head import RegionHead

__all__ = ["BBoxHead", "BBoxTargets"]

#: Labels [N], their weights [N], boxes [N, 4] and their weights [N, 4].
BBoxTargets = tuple[Tensor, Tensor, Tensor, Tensor]


@HEADS.register_module()
class BBoxHead(RegionHead):
    """Two linear layers on pooled regions: classes, and a box for each class.

    Args:
        with_avg_pool: average over the region first.
        with_cls: predict classes.
        with_reg: predict boxes.
        roi_feat_size: of the pooled regions.
        in_channels: of the pooled regions.
        num_classes: foreground classes; background is the label ``num_classes``.
        bbox_coder: its config.
        reg_class_agnostic: one box for all classes.
        reg_decoded_bbox: the box loss is on boxes in pixels.
        reg_predictor_cfg: config of the last layer of the boxes.
        cls_predictor_cfg: config of the last layer of the classes.
        loss_cls: config of the classification loss.
        loss_bbox: config of the box loss.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: nothing is to be predicted.
    """

    loss_cls: Any
    loss_bbox: Any
    bbox_coder: Any
    fc_cls: Any
    fc_reg: Any

    def __init__(self, with_avg_pool: bool = False, with_cls: bool = True, with_reg: bool = True,
                 roi_feat_size: Any = 7, in_channels: int = 256, num_classes: int = 80,
                 bbox_coder: dict[str, Any] = dict(
                     type="DeltaXYWHBBoxCoder", clip_border=True,
                     target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[0.1, 0.1, 0.2, 0.2]),
                 reg_class_agnostic: bool = False, reg_decoded_bbox: bool = False,
                 reg_predictor_cfg: dict[str, Any] = dict(type="Linear"),
                 cls_predictor_cfg: dict[str, Any] = dict(type="Linear"),
                 loss_cls: dict[str, Any] = dict(type="CrossEntropyLoss", use_sigmoid=False,
                                                 loss_weight=1.0),
                 loss_bbox: dict[str, Any] = dict(type="SmoothL1Loss", beta=1.0,
                                                  loss_weight=1.0),
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        if not (with_cls or with_reg):
            raise ValueError(f"{type(self).__name__}: with_cls and with_reg are both false")
        self.with_avg_pool = with_avg_pool
        self.with_cls = with_cls
        self.with_reg = with_reg
        self.roi_feat_size = _pair(roi_feat_size)
        self.roi_feat_area = self.roi_feat_size[0] * self.roi_feat_size[1]
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.reg_class_agnostic = reg_class_agnostic
        self.reg_decoded_bbox = reg_decoded_bbox
        self.reg_predictor_cfg = reg_predictor_cfg
        self.cls_predictor_cfg = cls_predictor_cfg
        self.fp16_enabled = False
        self.bbox_coder = build_bbox_coder(bbox_coder)
        self.loss_cls = build_loss(loss_cls)
        self.loss_bbox = build_loss(loss_bbox)
        if with_avg_pool:
            self.avg_pool = nn.AvgPool2d(self.roi_feat_size)
            width = in_channels
        else:
            width = in_channels * self.roi_feat_area
        if with_cls:
            self.fc_cls = self.predictor(cls_predictor_cfg, width, self.cls_channels)
        if with_reg:
            self.fc_reg = self.predictor(reg_predictor_cfg, width, self.reg_channels)
        self.debug_imgs = None
        if init_cfg is None:
            self.init_cfg = [
                *([dict(type="Normal", std=0.01, override=dict(name="fc_cls"))] * with_cls),
                *([dict(type="Normal", std=0.001, override=dict(name="fc_reg"))] * with_reg)]

    @staticmethod
    def predictor(cfg: dict[str, Any], inputs: int, outputs: int) -> nn.Module:
        """A last layer."""
        return build_linear_layer(cfg, in_features=inputs, out_features=outputs)

    @property
    def cls_channels(self) -> int:
        """Outputs of the last layer of the classes."""
        if self.custom_cls_channels:
            return self.loss_cls.get_cls_channels(self.num_classes)
        return self.num_classes + 1

    @property
    def reg_channels(self) -> int:
        """Outputs of the last layer of the boxes."""
        return 4 if self.reg_class_agnostic else 4 * self.num_classes

    def pooled(self, x: Tensor) -> Tensor:
        """Regions [N, C, h, w] to rows; the mean over a region of any size, none included."""
        return self.avg_pool(x).flatten(1) if x.numel() else x.mean((-1, -2))

    def forward(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Logits [N, C + 1] and deltas [N, 4 C] of regions [N, in_channels, h, w]."""
        if self.with_avg_pool:
            x = self.pooled(x)
        elif x.dim() > 2:
            x = x.flatten(1)
        return (self.fc_cls(x) if self.with_cls else None,
                self.fc_reg(x) if self.with_reg else None)

    def targets(self, samples: Samples, cfg: Any) -> BBoxTargets:
        """What each row of ``samples`` learns; the weights of padding are zero."""
        boxes, pos, dtype = samples.boxes, samples.pos, samples.boxes.dtype
        wanted = samples.gt_boxes.to(dtype)
        if not self.reg_decoded_bbox:
            # A box that is not positive gets one of a pixel to encode: no logarithm of zero.
            unit = boxes.new_tensor([0.0, 0.0, 1.0, 1.0])
            here = pos[..., None]
            wanted = self.bbox_coder.encode(
                torch.where(here, boxes, unit).flatten(0, 1),
                torch.where(here, wanted, unit).flatten(0, 1)).view_as(boxes)
        return (*self.label_targets(samples, cfg),
                torch.where(pos[..., None], wanted, 0.0).flatten(0, 1),
                pos[..., None].to(dtype).expand(*pos.shape, 4).flatten(0, 1))

    @force_fp32(apply_to=("cls_score", "bbox_pred"))
    def loss(self, cls_score: Tensor | None, bbox_pred: Tensor | None, rois: Tensor,
             labels: Tensor, label_weights: Tensor, bbox_targets: Tensor, bbox_weights: Tensor,
             reduction_override: str | None = None,
             num_rois: Tensor | None = None) -> dict[str, Any]:
        """Losses of regions.

        Args:
            cls_score: [N, C + 1].
            bbox_pred: [N, 4 C].
            rois: [N, 5].
            labels: [N].
            label_weights: [N].
            bbox_targets: [N, 4].
            bbox_weights: [N, 4].
            reduction_override: in place of the losses' own reduction.
            num_rois: what the box loss is divided by, where some of the N are padding.

        Returns:
            ``loss_cls`` and ``acc``, ``loss_bbox``.
        """
        losses = self.class_losses(cls_score, labels, label_weights, reduction_override)
        if bbox_pred is not None:
            losses["loss_bbox"] = self.bbox_loss(bbox_pred, rois, labels, bbox_targets,
                                                 bbox_weights, reduction_override, num_rois)
        return losses

    def bbox_loss(self, bbox_pred: Tensor, rois: Tensor, labels: Tensor, bbox_targets: Tensor,
                  bbox_weights: Tensor, reduction_override: str | None,
                  num_rois: Tensor | None) -> Tensor:
        """The loss of the box of each positive's own class."""
        pos = (labels >= 0) & (labels < self.num_classes)
        if self.reg_decoded_bbox:
            bbox_pred = self.bbox_coder.decode(rois[:, 1:], bbox_pred)
        own = bbox_pred.view(len(bbox_pred), -1, 4)
        row = torch.where(pos, labels, 0) if own.shape[1] > 1 else torch.zeros_like(labels)
        own = own.gather(1, row[:, None, None].expand(-1, 1, 4))[:, 0]
        # What is not positive predicts its target: no NaN whose weight is zero.
        own = torch.where(pos[:, None], own, bbox_targets.to(own.dtype))
        total = bbox_targets.size(0) if num_rois is None else at_least_float32(
            num_rois.to(own.dtype))
        return self.loss_bbox(own, bbox_targets, bbox_weights, avg_factor=total,
                              reduction_override=reduction_override)

    # --- detections -------------------------------------------------------------------------
    def decoded(self, rois: Tensor, bbox_pred: Tensor,
                max_shape: Any) -> tuple[Tensor, Tensor | None]:
        """Boxes [N, 4 C] of RoIs [N, 5], of which none is surer than another."""
        return self.bbox_coder.decode(rois[:, 1:], bbox_pred, max_shape=max_shape), None

    # --- cascades ---------------------------------------------------------------------------
    def regress_by_class(self, rois: Tensor, label: Tensor, bbox_pred: Tensor,
                         img_meta: dict[str, Any]) -> Tensor:
        """RoIs moved to the box of one class.

        Args:
            rois: [N, 4] or [N, 5].
            label: [N], the classes.
            bbox_pred: [N, 4 C] or [N, 4].
            img_meta: of the image they are all in.
        """
        if rois.size(1) not in (4, 5):
            raise ValueError(f"regress_by_class: rois must be [N, 4] or [N, 5], got "
                             f"{list(rois.shape)}")
        if not self.reg_class_agnostic:
            inds = torch.stack([label * 4 + i for i in range(4)], 1)
            bbox_pred = bbox_pred.gather(1, inds)
        boxes = self.bbox_coder.decode(rois[:, -4:], bbox_pred, max_shape=img_meta["img_shape"])
        return torch.cat([rois[:, :-4], boxes], dim=1)
