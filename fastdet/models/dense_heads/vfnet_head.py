"""VarifocalNet's head (arXiv 2008.13367): a box's own features decide its score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import ConvModule, Scale
from fastdet.core.anchor import MlvlPointGenerator, build_prior_generator
from fastdet.core.bbox import GroundTruth, build_assigner
from fastdet.core.bbox.iou_calculators import bbox_overlaps
from fastdet.core.utils import multi_apply, reduce_mean
from fastdet.ops import DeformConv2d

from ..builder import HEADS, build_loss
from ..losses.utils import at_least_float32
from .anchor_head import trained_anchors
from .base_dense_head import Meta
from .fcos_head import INF, FCOSHead

__all__ = ["VFNetHead"]


@HEADS.register_module()
class VFNetHead(FCOSHead):
    """A box, its refinement from nine points of it, and a score that is its IoU.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        regress_ranges: of each level, the least and the largest distance that it regresses.
        center_sampling: only points near a box's centre learn it, without ``use_atss``.
        center_sample_radius: how near, in strides.
        sync_num_pos: positives are counted over all processes.
        gradient_mul: the share of the gradient that passes from the nine points to the box.
        bbox_norm_type: distances are in units of ``'reg_denom'``, the level's largest, or of
            ``'stride'``.
        loss_cls_fl: config of the classification loss without ``use_vfl``.
        use_vfl: scores learn IoUs by the varifocal loss.
        loss_cls: config of that loss.
        loss_bbox: config of the loss of the boxes.
        loss_bbox_refine: config of the loss of the refined boxes.
        norm_cfg: config of the norms.
        use_atss: ATSS says which points learn, else FCOS's rule.
        reg_decoded_bbox: targets are boxes in pixels; must be true.
        anchor_generator: config of the anchors that ATSS compares.
        init_cfg: how weights are initialised.
        kwargs: of :class:`AnchorFreeHead`.

    Raises:
        ValueError: ``bbox_norm_type`` is unknown, or ``reg_decoded_bbox`` is false.
    """

    def __init__(self, num_classes: int, in_channels: int,
                 regress_ranges: Sequence[tuple[float, float]] = (
                     (-1, 64), (64, 128), (128, 256), (256, 512), (512, INF)),
                 center_sampling: bool = False, center_sample_radius: float = 1.5,
                 sync_num_pos: bool = True, gradient_mul: float = 0.1,
                 bbox_norm_type: str = "reg_denom",
                 loss_cls_fl: dict[str, Any] = dict(type="FocalLoss", use_sigmoid=True, gamma=2.0,
                                                    alpha=0.25, loss_weight=1.0),
                 use_vfl: bool = True,
                 loss_cls: dict[str, Any] = dict(type="VarifocalLoss", use_sigmoid=True,
                                                 alpha=0.75, gamma=2.0, iou_weighted=True,
                                                 loss_weight=1.0),
                 loss_bbox: dict[str, Any] = dict(type="GIoULoss", loss_weight=1.5),
                 loss_bbox_refine: dict[str, Any] = dict(type="GIoULoss", loss_weight=2.0),
                 norm_cfg: Any = dict(type="GN", num_groups=32, requires_grad=True),
                 use_atss: bool = True, reg_decoded_bbox: bool = True,
                 anchor_generator: dict[str, Any] = dict(
                     type="AnchorGenerator", ratios=[1.0], octave_base_scale=8,
                     scales_per_octave=1, center_offset=0.0, strides=[8, 16, 32, 64, 128]),
                 init_cfg: Any = dict(
                     type="Normal", layer="Conv2d", std=0.01,
                     override=dict(type="Normal", name="vfnet_cls", std=0.01, bias_prob=0.01)),
                 **kwargs: Any) -> None:
        if bbox_norm_type not in ("reg_denom", "stride"):
            raise ValueError("VFNetHead: bbox_norm_type must be reg_denom or stride, got "
                             f"{bbox_norm_type!r}")
        if not reg_decoded_bbox:
            raise ValueError("VFNetHead: its losses are on boxes, reg_decoded_bbox must be True")
        self.reg_denoms = [largest for _, largest in regress_ranges]
        self.reg_denoms[-1] = self.reg_denoms[-2] * 2
        super().__init__(
            num_classes, in_channels, regress_ranges, center_sampling, center_sample_radius,
            loss_cls=loss_cls if use_vfl else loss_cls_fl, loss_bbox=loss_bbox,
            norm_cfg=norm_cfg, init_cfg=init_cfg, **kwargs)
        self.use_sigmoid_cls = loss_cls.get("use_sigmoid", False)
        self.sync_num_pos = sync_num_pos
        self.gradient_mul = gradient_mul
        self.bbox_norm_type = bbox_norm_type
        self.use_vfl = use_vfl
        self.loss_bbox_refine = build_loss(loss_bbox_refine)
        self.use_atss = use_atss
        self.reg_decoded_bbox = reg_decoded_bbox
        self.anchor_center_offset = anchor_generator["center_offset"]
        self.atss_prior_generator: Any = build_prior_generator(anchor_generator)
        self.fcos_prior_generator = MlvlPointGenerator(
            anchor_generator["strides"], self.anchor_center_offset if use_atss else 0.5)
        self.prior_generator = self.fcos_prior_generator
        if self.train_cfg:
            self.assigner: Any = build_assigner(self.train_cfg["assigner"])

    def _init_layers(self) -> None:
        def deformable() -> nn.Module:
            return DeformConv2d(self.feat_channels, self.feat_channels, 3, 1, padding=1)

        def predictor(channels: int) -> nn.Module:
            return nn.Conv2d(self.feat_channels, channels, 3, padding=1)

        def scales() -> nn.ModuleList:
            return nn.ModuleList([Scale(1.0) for _ in self.strides])

        self.cls_convs = self.tower()
        self.reg_convs = self.tower()
        self.relu = nn.ReLU()
        self.vfnet_reg_conv = ConvModule(
            self.feat_channels, self.feat_channels, 3, stride=1, padding=1,
            conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg, bias=self.conv_bias)
        self.vfnet_reg = predictor(4)
        self.scales = scales()
        self.vfnet_reg_refine_dconv = deformable()
        self.vfnet_reg_refine = predictor(4)
        self.scales_refine = scales()
        self.vfnet_cls_dconv = deformable()
        self.vfnet_cls = predictor(self.cls_out_channels)

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Scores [B, C, H, W], distances and, last, refined distances [B, 4, H, W] of each level.

        In evaluation without the distances before the refinement.
        """
        return multi_apply(self.forward_single, feats, self.scales, self.scales_refine,
                           self.strides, self.reg_denoms)

    def forward_single(self, x: Tensor, scale: nn.Module,  # type: ignore[override]
                       scale_refine: nn.Module, stride: int,
                       reg_denom: float) -> tuple[Tensor, ...]:
        """Scores, distances and refined distances of one level, in pixels."""
        classes, boxes = self.features(x)
        unit = reg_denom if self.bbox_norm_type == "reg_denom" else stride
        distance = scale(self.vfnet_reg(self.vfnet_reg_conv(boxes))).float().exp() * unit
        offset = self.star_dcn_offset(distance, self.gradient_mul, stride).to(boxes.dtype)
        boxes = self.relu(self.vfnet_reg_refine_dconv(boxes, offset))
        refined = scale_refine(self.vfnet_reg_refine(boxes)).float().exp() * distance.detach()
        score = self.vfnet_cls(self.relu(self.vfnet_cls_dconv(classes, offset)))
        return (score, distance, refined) if self.training else (score, refined)

    def star_dcn_offset(self, bbox_pred: Tensor, gradient_mul: float, stride: float) -> Tensor:
        """Offsets [B, 18, H, W] that move a 3 x 3 kernel to a box's corners, sides and centre.

        Args:
            bbox_pred: [B, 4, H, W], distances in pixels.
            gradient_mul: the share of the gradient that passes.
            stride: of the level.
        """
        pred = (1 - gradient_mul) * bbox_pred.detach() + gradient_mul * bbox_pred
        left, top, right, bottom = (pred / stride).unbind(1)
        none = torch.zeros_like(left)
        # The kernel has its taps at -1, 0 and 1 already.
        return torch.stack([one for y in (1 - top, none, bottom - 1)
                            for x in (1 - left, none, right - 1) for one in (y, x)], dim=1)

    # --- training ---------------------------------------------------------------------------
    def atss_targets(self, cls_scores: list[Tensor], gts: GroundTruth,
                     img_metas: list[Meta]) -> tuple[Tensor, Tensor, Tensor]:
        """Labels and their weights ``[B, N]``, and boxes in pixels ``[B, N, 4]``, by ATSS."""
        sizes = [m.shape[-2:] for m in cls_scores]
        levels = self.atss_prior_generator.grid_priors(sizes, device=cls_scores[0].device)
        anchors = torch.cat(levels)
        valid = trained_anchors(self.atss_prior_generator, anchors, sizes, img_metas,
                                self.train_cfg.get("allowed_border", -1))
        gt_inds = self.assigner.assign_levels(anchors, [len(one) for one in levels], gts,
                                              valid)[0]
        pos = gt_inds > 0
        boxes, labels = gts.of(gt_inds)
        pos_weight = self.train_cfg.get("pos_weight", -1)
        weights = torch.where(pos, pos_weight if pos_weight > 0 else 1.0,
                              (gt_inds == 0).to(anchors.dtype))
        return torch.where(pos, labels, self.num_classes), weights, boxes

    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             bbox_preds_refine: list[Tensor], gt_bboxes: list[Tensor], gt_labels: list[Tensor],
             img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Losses of all levels together.

        Args:
            cls_scores: [B, C, H, W] of each level.
            bbox_preds: [B, 4, H, W] of each level.
            bbox_preds_refine: [B, 4, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: of each image.
            gt_bboxes_ignore: [g, 4] of each image, with ``use_atss``.

        Returns:
            ``loss_cls``, ``loss_bbox`` and ``loss_bbox_rf``, scalars.
        """
        points, strides, level = self.points(cls_scores, bbox_preds[0].dtype)
        at = points.repeat(len(gt_bboxes), 1)
        weights = None
        if self.use_atss:
            labels, weights, boxes = self.atss_targets(
                cls_scores, GroundTruth.pad(gt_bboxes, gt_labels, gt_bboxes_ignore), img_metas)
            weights, boxes = weights.flatten(), boxes.flatten(0, 1).to(points.dtype)
        else:
            labels, off = self.targets(points, strides, level,
                                       GroundTruth.pad(gt_bboxes, gt_labels))
            boxes = self.bbox_coder.decode(at, off.flatten(0, 1).to(points.dtype))
        labels = labels.flatten()
        pos = (labels >= 0) & (labels < self.num_classes)
        num_pos = at_least_float32(pos.sum().to(points.dtype))
        if self.sync_num_pos:
            num_pos = reduce_mean(num_pos).clamp(min=1.0)
        # What is not positive predicts and learns a box around its point, of no weight.
        boxes = torch.where(pos[:, None], boxes, torch.cat([at - 1, at + 1], dim=1))

        def of(maps: list[Tensor], loss: Any) -> tuple[Tensor, Tensor]:
            pred = self.bbox_coder.decode(
                at, torch.where(pos[:, None], self.flattened(maps, 4), 1.0))
            iou = bbox_overlaps(pred.detach(), boxes, is_aligned=True).clamp(min=1e-6) * pos
            total = reduce_mean(iou.sum()).clamp(min=1)
            return loss(pred, boxes, weight=iou, avg_factor=total), iou

        of_box, _ = of(bbox_preds, self.loss_bbox)
        of_refined, iou = of(bbox_preds_refine, self.loss_bbox_refine)
        score = self.flattened(cls_scores, self.cls_out_channels)
        if self.use_vfl:
            own = labels[:, None] == torch.arange(score.shape[1], device=labels.device)
            of_class = self.loss_cls(score, (own * iou[:, None]).to(score.dtype),
                                     avg_factor=num_pos)
        else:
            of_class = self.loss_cls(score, labels, weight=weights, avg_factor=num_pos)
        return {"loss_cls": of_class, "loss_bbox": of_box, "loss_bbox_rf": of_refined}
