"""DDOD's head (arXiv 2107.02963): classes and boxes with features and targets of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import Scale, bias_init_with_prob, normal_init
from fastdet.core.bbox import GroundTruth, build_assigner
from fastdet.core.bbox.iou_calculators import bbox_overlaps
from fastdet.core.utils import multi_apply

from ..builder import HEADS, build_loss
from .anchor_head import AnchorHead, AnchorTargets
from .base_dense_head import Meta

__all__ = ["DDODHead"]


@HEADS.register_module()
class DDODHead(AnchorHead):
    """Classes, boxes and the IoU that a box will have.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        stacked_convs: convolutions of a tower.
        conv_cfg: config of the convolutions.
        use_dcn: the first convolution of a tower is deformable.
        norm_cfg: config of the norms.
        loss_iou: config of the loss of the IoUs.
        kwargs: of :class:`AnchorHead`; ``train_cfg`` has ``assigner``, for the classes, and
            ``reg_assigner``, for the boxes.
    """

    may_sample = False

    def __init__(self, num_classes: int, in_channels: int, stacked_convs: int = 4,
                 conv_cfg: Any = None, use_dcn: bool = True,
                 norm_cfg: Any = dict(type="GN", num_groups=32, requires_grad=True),
                 loss_iou: dict[str, Any] = dict(type="CrossEntropyLoss", use_sigmoid=True,
                                                 loss_weight=1.0),
                 **kwargs: Any) -> None:
        self.stacked_convs = stacked_convs
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.use_dcn = use_dcn
        super().__init__(num_classes, in_channels, **kwargs)
        if self.train_cfg:
            self.cls_assigner: Any = self.assigner
            self.reg_assigner: Any = build_assigner(self.train_cfg["reg_assigner"])
        self.loss_iou = build_loss(loss_iou)
        self._seen: Tensor | None = None

    def conv_at(self, i: int) -> Any:
        """Deformable where it is the first one, if so wished."""
        return {"type": "DCN", "deform_groups": 1} if i == 0 and self.use_dcn else self.conv_cfg

    def _init_layers(self) -> None:
        self.relu = nn.ReLU(inplace=True)
        self.cls_convs = self.tower()
        self.reg_convs = self.tower()
        self.atss_cls, self.atss_reg, self.atss_iou = (
            nn.Conv2d(self.feat_channels, self.num_base_priors * channels, 3, padding=1)
            for channels in (self.cls_out_channels, 4, 1))
        self.scales = nn.ModuleList([Scale(1.0) for _ in self.prior_generator.strides])

    def init_weights(self) -> None:
        """Small normal weights, and a probability of 0.01 for every class."""
        for layer in (*self.cls_convs, *self.reg_convs):
            normal_init(layer.conv, std=0.01)  # type: ignore[arg-type]
        normal_init(self.atss_reg, std=0.01)
        normal_init(self.atss_iou, std=0.01)
        normal_init(self.atss_cls, std=0.01, bias=bias_init_with_prob(0.01))

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Scores [B, A C, H, W], deltas [B, A 4, H, W] and IoUs [B, A, H, W] of every level."""
        return multi_apply(self.forward_single, feats, self.scales)

    def forward_single(self, x: Tensor, scale: nn.Module) -> tuple[Tensor, ...]:  # type: ignore
        """Scores, deltas and IoUs of one level."""
        classes, boxes = self.features(x)
        return self.atss_cls(classes), scale(self.atss_reg(boxes)).float(), self.atss_iou(boxes)

    # --- training ---------------------------------------------------------------------------
    def reweight(self, labels: Sequence[Tensor]) -> Tensor:
        """A factor of each level, from 1 to 2: the fewer positives so far, the larger.

        Args:
            labels: [B, n] of each level, of this step.
        """
        counts = torch.stack([(one < self.num_classes).sum() for one in labels]).float()
        seen = counts if self._seen is None else counts + self._seen.to(counts.device)
        self._seen = seen
        return 2.0 - (seen - seen.min()) / (seen.max() - seen.min() + 1e-10)

    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             iou_preds: list[Tensor], gt_bboxes: list[Tensor], gt_labels: list[Tensor] | None,
             img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, list[Tensor]]:
        """Losses of each level.

        Args:
            cls_scores: [B, A C, H, W] of each level.
            bbox_preds: [B, A 4, H, W] of each level.
            iou_preds: [B, A, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: of each image.
            gt_bboxes_ignore: [g, 4] of each image.

        Returns:
            ``loss_cls``, ``loss_bbox`` and ``loss_iou``, lists of scalars.
        """
        sizes = [m.shape[-2:] for m in cls_scores]
        levels = self.prior_generator.grid_priors(sizes, device=cls_scores[0].device)
        anchors, per_level = torch.cat(levels), [len(level) for level in levels]
        valid = self.valid_anchors(anchors, sizes, img_metas)
        gts = GroundTruth.pad(gt_bboxes, gt_labels, gt_bboxes_ignore)
        b = len(valid)
        with torch.no_grad():
            score = self.flattened(cls_scores, self.cls_out_channels).unflatten(0, (b, -1))
            boxes = self.bbox_coder.decode(anchors.repeat(b, 1), self.flattened(bbox_preds, 4)
                                           ).unflatten(0, (b, -1))
            for_cls, for_reg = (
                self._targets_of(assigner.assign_levels(anchors, per_level, gts, valid, score,
                                                        boxes)[0], gts, anchors)
                for assigner in (self.cls_assigner, self.reg_assigner))

        labels, weights, *_ = for_cls.of_levels(levels)
        of_class = multi_apply(self.loss_cls_single, cls_scores, labels, weights,
                               self.reweight(labels), num_total_samples=for_cls.positives())[0]
        labels, _, learnt, _ = for_reg.of_levels(levels)
        of_box, of_iou = multi_apply(
            self.loss_reg_single, levels, bbox_preds, iou_preds, labels, learnt,
            self.reweight(labels), num_total_samples=for_reg.positives())
        return {"loss_cls": of_class, "loss_bbox": of_box, "loss_iou": of_iou}

    def _targets_of(self, gt_inds: Tensor, gts: GroundTruth, anchors: Tensor) -> AnchorTargets:
        """What assigned anchors learn, boxes in pixels."""
        pos, neg = gt_inds > 0, gt_inds == 0
        boxes, labels = gts.of(gt_inds)
        pos_weight = self.train_cfg.get("pos_weight", -1)
        weights = torch.where(pos, pos_weight if pos_weight > 0 else 1.0, neg.to(anchors.dtype))
        return AnchorTargets(torch.where(pos, labels, self.num_classes), weights,
                             boxes.to(anchors.dtype),
                             pos[..., None].to(boxes.dtype).expand_as(boxes),
                             pos.sum(1).clamp(min=1).sum(), neg.sum(1).clamp(min=1).sum(), gt_inds)

    def loss_cls_single(self, cls_score: Tensor, labels: Tensor, label_weights: Tensor,
                        reweight_factor: Tensor, num_total_samples: Tensor) -> tuple[Tensor]:
        """The loss of the classes of one level: of maps [B, A C, H, W] and targets [B, n]."""
        score = cls_score.permute(0, 2, 3, 1).reshape(-1, self.cls_out_channels)
        return reweight_factor * self.loss_cls(score, labels.flatten(), label_weights.flatten(),
                                               avg_factor=num_total_samples),

    def loss_reg_single(self, anchors: Tensor, bbox_pred: Tensor, iou_pred: Tensor,
                        labels: Tensor, bbox_targets: Tensor, reweight_factor: Tensor,
                        num_total_samples: Tensor) -> tuple[Tensor, Tensor]:
        """The losses of boxes and IoUs of one level.

        Args:
            anchors: [n, 4].
            bbox_pred: [B, A 4, H, W].
            iou_pred: [B, A, H, W].
            labels: [B, n].
            bbox_targets: [B, n, 4], in pixels.
            reweight_factor: of the level.
            num_total_samples: what sums are divided by.
        """
        labels = labels.flatten()
        pos = (labels >= 0) & (labels < self.num_classes)
        own = anchors.repeat(len(bbox_pred), 1)
        pred = bbox_pred.permute(0, 2, 3, 1).reshape(-1, 4)
        # What is not positive predicts and learns its own anchor: finite, of no weight.
        pred = self.bbox_coder.decode(own, torch.where(pos[:, None], pred, 0.0))
        learn = torch.where(pos[:, None], bbox_targets.flatten(0, 1).to(pred.dtype),
                            own.to(pred.dtype))
        weight = pos.to(pred.dtype)
        of_box = self.loss_bbox(pred, learn, weight=weight, avg_factor=num_total_samples)
        iou = bbox_overlaps(pred.detach(), learn, is_aligned=True) * weight
        of_iou = self.loss_iou(iou_pred.permute(0, 2, 3, 1).reshape(-1), iou, weight,
                               avg_factor=num_total_samples)
        return reweight_factor * of_box, reweight_factor * of_iou
