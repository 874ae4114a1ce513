"""ATSS's head (arXiv 1912.02424): one anchor a place, positives by statistics of the overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import Scale
from fastdet.core.bbox import GroundTruth
from fastdet.core.bbox.assigners.centers import box_centers
from fastdet.core.bbox.transforms import bbox2distance
from fastdet.core.utils import multi_apply, reduce_mean

from ..builder import HEADS, build_loss
from .anchor_head import AnchorHead
from .base_dense_head import Meta

__all__ = ["ATSSHead"]


@HEADS.register_module()
class ATSSHead(AnchorHead):
    """Classes, boxes and how central an anchor is in its gt.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        pred_kernel_size: of the three predicting convolutions.
        stacked_convs: convolutions of a tower.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        reg_decoded_bbox: targets are boxes in pixels.
        loss_centerness: config of the loss of centrality.
        init_cfg: how weights are initialised.
        kwargs: of :class:`AnchorHead`.
    """

    may_sample = False

    def __init__(self, num_classes: int, in_channels: int, pred_kernel_size: int = 3,
                 stacked_convs: int = 4, conv_cfg: Any = None,
                 norm_cfg: Any = dict(type="GN", num_groups=32, requires_grad=True),
                 reg_decoded_bbox: bool = True,
                 loss_centerness: dict[str, Any] = dict(type="CrossEntropyLoss",
                                                        use_sigmoid=True, loss_weight=1.0),
                 init_cfg: Any = dict(
                     type="Normal", layer="Conv2d", std=0.01,
                     override=dict(type="Normal", name="atss_cls", std=0.01, bias_prob=0.01)),
                 **kwargs: Any) -> None:
        self.pred_kernel_size = pred_kernel_size
        self.stacked_convs = stacked_convs
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        super().__init__(num_classes, in_channels, reg_decoded_bbox=reg_decoded_bbox,
                         init_cfg=init_cfg, **kwargs)
        self.loss_centerness = build_loss(loss_centerness)

    def predictor(self, channels: int) -> nn.Conv2d:
        """A convolution to ``channels`` numbers for each anchor."""
        return nn.Conv2d(self.feat_channels, self.num_base_priors * channels,
                         self.pred_kernel_size, padding=self.pred_kernel_size // 2)

    def _init_layers(self) -> None:
        self.relu = nn.ReLU(inplace=True)
        self.cls_convs = self.tower()
        self.reg_convs = self.tower()
        self.atss_cls = self.predictor(self.cls_out_channels)
        self.atss_reg = self.predictor(4)
        self.atss_centerness = self.predictor(1)
        self.scales = nn.ModuleList([Scale(1.0) for _ in self.prior_generator.strides])

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Scores [B, A C, H, W], deltas [B, A 4, H, W] and centrality [B, A, H, W] of levels."""
        return multi_apply(self.forward_single, feats, self.scales)

    def forward_single(self, x: Tensor, scale: nn.Module) -> tuple[Tensor, ...]:  # type: ignore
        """Scores, deltas and centrality of one level."""
        classes, boxes = self.features(x)
        return (self.atss_cls(classes), scale(self.atss_reg(boxes)).float(),
                self.atss_centerness(boxes))

    def assigned(self, anchors: Tensor, per_level: Sequence[int], valid: Tensor,
                 gts: GroundTruth) -> Tensor:
        return self.assigner.assign_levels(anchors, per_level, gts, valid)[0]

    def centerness_target(self, anchors: Tensor, gts: Tensor) -> Tensor:
        """How central anchors [n, 4] are in their gts [n, 4]."""
        left, top, right, bottom = bbox2distance(box_centers(anchors), gts).unbind(1)
        return torch.sqrt(torch.minimum(left, right) / torch.maximum(left, right)
                          * (torch.minimum(top, bottom) / torch.maximum(top, bottom)))

    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             centernesses: list[Tensor], gt_bboxes: list[Tensor],
             gt_labels: list[Tensor] | None, img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, list[Tensor]]:
        """Losses of each level.

        Args:
            cls_scores: [B, A C, H, W] of each level.
            bbox_preds: [B, A 4, H, W] of each level.
            centernesses: [B, A, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: of each image.
            gt_bboxes_ignore: [g, 4] of each image.

        Returns:
            ``loss_cls``, ``loss_bbox`` and ``loss_centerness``, lists of scalars.
        """
        levels, targets = self.batch_targets(cls_scores, gt_bboxes, gt_labels, img_metas,
                                             gt_bboxes_ignore)
        of_class, of_box, of_centre, central = multi_apply(
            self.loss_single, levels, cls_scores, bbox_preds, centernesses,
            *targets.of_levels(levels)[:3], num_total_samples=targets.positives())
        factor = reduce_mean(torch.stack(central).sum()).clamp(min=1)
        return {"loss_cls": of_class, "loss_bbox": [loss / factor for loss in of_box],
                "loss_centerness": of_centre}

    def loss_single(self, anchors: Tensor, cls_score: Tensor, bbox_pred: Tensor,  # type: ignore
                    centerness: Tensor, labels: Tensor, label_weights: Tensor,
                    bbox_targets: Tensor, num_total_samples: Tensor) -> tuple[Tensor, ...]:
        """Losses of one level, and the sum of the targets of centrality.

        Args:
            anchors: [n, 4].
            cls_score: [B, A C, H, W].
            bbox_pred: [B, A 4, H, W].
            centerness: [B, A, H, W].
            labels: [B, n].
            label_weights: [B, n].
            bbox_targets: [B, n, 4].
            num_total_samples: what sums of the classes and of centrality are divided by.
        """
        pos = (labels >= 0) & (labels < self.num_classes)
        pos, labels = pos.flatten(), labels.flatten()
        score = cls_score.permute(0, 2, 3, 1).reshape(-1, self.cls_out_channels)
        of_class = self.loss_cls(score, labels, label_weights.flatten(),
                                 avg_factor=num_total_samples)
        pred = bbox_pred.permute(0, 2, 3, 1).reshape(-1, 4)
        own = anchors.repeat(len(cls_score), 1)
        # What is not positive is its own target: a number whose weight is zero.
        boxes = torch.where(pos[:, None], bbox_targets.flatten(0, 1), own.to(bbox_targets.dtype))
        weight = pos.to(boxes.dtype)
        central = self.centerness_target(own, boxes) * weight
        decoded = self.bbox_coder.decode(own, torch.where(pos[:, None], pred, 0.0))
        of_box = self.loss_bbox(decoded, boxes, weight=central, avg_factor=1.0)
        of_centre = self.loss_centerness(centerness.permute(0, 2, 3, 1).reshape(-1), central,
                                         weight=weight, avg_factor=num_total_samples)
        return of_class, of_box, of_centre, central.sum()
