"""Generalised focal loss (arXiv 2006.04388): scores are qualities, sides are distributions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import Scale
from fastdet.core.bbox import GroundTruth
from fastdet.core.bbox.assigners.centers import box_centers
from fastdet.core.bbox.iou_calculators import bbox_overlaps
from fastdet.core.utils import multi_apply, reduce_mean

from ..builder import HEADS, build_loss
from .anchor_head import AnchorHead
from .base_dense_head import Meta

__all__ = ["GFLHead", "Integral"]


class Integral(nn.Module):
    """The mean of a distribution over 0, 1, ... ``reg_max``.

    Args:
        reg_max: the largest distance, in strides.
    """

    project: Tensor

    def __init__(self, reg_max: int = 16) -> None:
        super().__init__()
        self.reg_max = reg_max
        self.register_buffer("project", torch.linspace(0, reg_max, reg_max + 1))

    def forward(self, x: Tensor) -> Tensor:
        """[..., 4] distances of logits [..., 4 (reg_max + 1)]."""
        shares = F.softmax(x.reshape(*x.shape[:-1], 4, self.reg_max + 1), dim=-1)
        return F.linear(shares, self.project.type_as(x)[None])[..., 0]


@HEADS.register_module()
class GFLHead(AnchorHead):
    """Qualities as scores, and a distribution for each side of a box.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        stacked_convs: convolutions of a tower.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        loss_dfl: config of the loss of the distributions.
        bbox_coder: its config.
        reg_max: the largest distance, in strides.
        init_cfg: how weights are initialised.
        kwargs: of :class:`AnchorHead`.
    """

    may_sample = False

    def __init__(self, num_classes: int, in_channels: int, stacked_convs: int = 4,
                 conv_cfg: Any = None,
                 norm_cfg: Any = dict(type="GN", num_groups=32, requires_grad=True),
                 loss_dfl: dict[str, Any] = dict(type="DistributionFocalLoss", loss_weight=0.25),
                 bbox_coder: dict[str, Any] = dict(type="DistancePointBBoxCoder"),
                 reg_max: int = 16,
                 init_cfg: Any = dict(
                     type="Normal", layer="Conv2d", std=0.01,
                     override=dict(type="Normal", name="gfl_cls", std=0.01, bias_prob=0.01)),
                 **kwargs: Any) -> None:
        self.stacked_convs = stacked_convs
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.reg_max = reg_max
        self.box_channels = 4 * (reg_max + 1)
        # Targets are boxes in pixels; the loss puts them in strides.
        super().__init__(num_classes, in_channels, bbox_coder=bbox_coder, init_cfg=init_cfg,
                         **{"reg_decoded_bbox": True, **kwargs})
        self.integral = Integral(reg_max)
        self.loss_dfl = build_loss(loss_dfl)

    def _init_layers(self) -> None:
        self.relu = nn.ReLU()
        self.cls_convs, self.reg_convs = self.tower(), self.tower()
        if self.num_base_priors != 1:
            raise ValueError(f"{type(self).__name__}: there must be one anchor at a place, the "
                             f"anchor generator has {self.num_base_priors}")
        self.gfl_cls = nn.Conv2d(self.feat_channels, self.cls_out_channels, 3, padding=1)
        self.gfl_reg = nn.Conv2d(self.feat_channels, self.box_channels, 3, padding=1)
        self.scales = nn.ModuleList([Scale(1.0) for _ in self.prior_generator.strides])

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Scores [B, C, H, W] and distributions [B, 4 (n + 1), H, W] of every level."""
        return multi_apply(self.forward_single, feats, self.scales)

    def forward_single(self, x: Tensor, scale: nn.Module) -> tuple[Tensor, ...]:  # type: ignore
        """Scores and distributions of one level."""
        classes, boxes = self.features(x)
        return self.gfl_cls(classes), scale(self.gfl_reg(boxes)).float()

    def anchor_center(self, anchors: Tensor) -> Tensor:
        """Centres [..., 2] of anchors [..., 4]."""
        return box_centers(anchors)

    def assigned(self, anchors: Tensor, per_level: Sequence[int], valid: Tensor,
                 gts: GroundTruth) -> Tensor:
        return self.assigner.assign_levels(anchors, per_level, gts, valid)[0]

    def decoded(self, priors: Tensor, pred: Tensor, level: int, max_shape: Any) -> Tensor:
        stride = self.prior_generator.strides[level][0]
        return self.bbox_coder.decode(self.anchor_center(priors), self.integral(pred) * stride,
                                      max_shape=max_shape)

    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             gt_bboxes: list[Tensor], gt_labels: list[Tensor] | None, img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, list[Tensor]]:
        """Losses of each level.

        Args:
            cls_scores: [B, C, H, W] of each level.
            bbox_preds: [B, 4 (n + 1), H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: of each image.
            gt_bboxes_ignore: [g, 4] of each image.

        Returns:
            ``loss_cls``, ``loss_bbox`` and ``loss_dfl``, lists of scalars.
        """
        levels, targets = self.batch_targets(cls_scores, gt_bboxes, gt_labels, img_metas,
                                             gt_bboxes_ignore)
        of_class, of_box, of_side, weights = multi_apply(
            self.loss_single, levels, cls_scores, bbox_preds, *targets.of_levels(levels)[:3],
            self.prior_generator.strides, num_total_samples=targets.positives())
        factor = reduce_mean(torch.stack(weights).sum()).clamp(min=1)
        return {"loss_cls": of_class, "loss_bbox": [loss / factor for loss in of_box],
                "loss_dfl": [loss / factor for loss in of_side]}

    @staticmethod
    def confidence(score: Tensor) -> Tensor:
        """The highest score [N] of logits [N, C], which weighs what a positive's box learns."""
        return score.detach().sigmoid().amax(1)

    def loss_single(self, anchors: Tensor, cls_score: Tensor, bbox_pred: Tensor,  # type: ignore
                    labels: Tensor, label_weights: Tensor, bbox_targets: Tensor,
                    stride: Sequence[int], num_total_samples: Tensor) -> tuple[Tensor, ...]:
        """Losses of one level, and the sum of the weights of its boxes.

        Args:
            anchors: [n, 4].
            cls_score: [B, C, H, W].
            bbox_pred: [B, 4 (n + 1), H, W].
            labels: [B, n].
            label_weights: [B, n].
            bbox_targets: [B, n, 4], in pixels.
            stride: of the level, in x and y.
            num_total_samples: what the sum of the classes is divided by.

        Raises:
            ValueError: the strides in x and y differ.
        """
        if stride[0] != stride[1]:
            raise ValueError(f"{type(self).__name__}: strides in x and y must be equal, got "
                             f"{stride}")
        labels = labels.flatten()
        pos = (labels >= 0) & (labels < self.num_classes)
        score = cls_score.permute(0, 2, 3, 1).reshape(-1, self.cls_out_channels)
        sides = bbox_pred.permute(0, 2, 3, 1).reshape(-1, self.box_channels)
        # What is not positive is its own target and has logits of zero: finite, of no weight.
        own = anchors.repeat(len(cls_score), 1)
        boxes = torch.where(pos[:, None], bbox_targets.flatten(0, 1),
                            own.to(bbox_targets.dtype)) / stride[0]
        sides = torch.where(pos[:, None], sides, 0.0)
        weight = self.confidence(score) * pos
        at = self.anchor_center(own) / stride[0]
        decoded = self.bbox_coder.decode(at, self.integral(sides))
        quality = bbox_overlaps(decoded.detach(), boxes.to(decoded.dtype), is_aligned=True) * pos
        of_box = self.loss_bbox(decoded, boxes, weight=weight, avg_factor=1.0)
        of_side = self.loss_dfl(
            sides.reshape(-1, self.reg_max + 1),
            self.bbox_coder.encode(at, boxes, self.reg_max).reshape(-1),
            weight=weight[:, None].expand(-1, 4).reshape(-1), avg_factor=4.0)
        of_class = self.loss_cls(score, (labels, quality.to(label_weights.dtype)),
                                 weight=label_weights.flatten(), avg_factor=num_total_samples)
        return of_class, of_box, of_side, weight.sum()
