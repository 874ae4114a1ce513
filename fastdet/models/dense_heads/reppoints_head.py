"""Boxes around points that move to the object (RepPoints, arXiv 1904.11490)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.core.anchor import MlvlPointGenerator
from fastdet.core.bbox import GroundTruth, build_assigner
from fastdet.core.bbox.transforms import clip_boxes
from fastdet.core.utils import multi_apply
from fastdet.ops import DeformConv2d

from ..builder import HEADS, build_loss
from ..losses.utils import at_least_float32
from .anchor_free_head import AnchorFreeHead
from .base_dense_head import Meta

__all__ = ["RepPointsHead"]


@HEADS.register_module()
class RepPointsHead(AnchorFreeHead):
    """Points for each place, moved once more by what a deformable convolution sees at them.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        point_feat_channels: of what points and classes are predicted from.
        num_points: points of a place, an odd square.
        gradient_mul: share of the gradient that the first points get through the second.
        point_strides: pixels between the places of each level.
        point_base_scale: side of the first box, in strides.
        loss_cls: config of the classification loss.
        loss_bbox_init: config of the loss of the first points' box.
        loss_bbox_refine: config of the loss of the second points' box.
        use_grid_points: points are a grid in a predicted box.
        center_init: the first points start at the place; else in a grid around it.
        transform_method: from points to a box: ``'minmax'``, ``'partial_minmax'`` (of four
            points) or ``'moment'`` (mean and learned multiples of the deviation).
        moment_mul: share of the gradient that those multiples get.
        init_cfg: how weights are initialised.
        kwargs: of :class:`AnchorFreeHead`.

    Raises:
        ValueError: ``num_points`` is no odd square, or ``transform_method`` is unknown.
    """

    def __init__(self, num_classes: int, in_channels: int, point_feat_channels: int = 256,
                 num_points: int = 9, gradient_mul: float = 0.1,
                 point_strides: Sequence[int] = [8, 16, 32, 64, 128], point_base_scale: float = 4,
                 loss_cls: dict[str, Any] = dict(type="FocalLoss", use_sigmoid=True, gamma=2.0,
                                                 alpha=0.25, loss_weight=1.0),
                 loss_bbox_init: dict[str, Any] = dict(type="SmoothL1Loss", beta=1.0 / 9.0,
                                                       loss_weight=0.5),
                 loss_bbox_refine: dict[str, Any] = dict(type="SmoothL1Loss", beta=1.0 / 9.0,
                                                         loss_weight=1.0),
                 use_grid_points: bool = False, center_init: bool = True,
                 transform_method: str = "moment", moment_mul: float = 0.01,
                 init_cfg: Any = dict(
                     type="Normal", layer="Conv2d", std=0.01,
                     override=dict(type="Normal", name="reppoints_cls_out", std=0.01,
                                   bias_prob=0.01)),
                 **kwargs: Any) -> None:
        side = round(num_points ** 0.5)
        if side * side != num_points or side % 2 == 0:
            raise ValueError(f"RepPointsHead: num_points must be an odd square, got {num_points}")
        if transform_method not in ("minmax", "partial_minmax", "moment"):
            raise ValueError("RepPointsHead: transform_method must be minmax, partial_minmax or "
                             f"moment, got {transform_method!r}")
        self.num_points = num_points
        self.point_feat_channels = point_feat_channels
        self.use_grid_points = use_grid_points
        self.center_init = center_init
        self.dcn_kernel = side
        self.dcn_pad = side // 2
        super().__init__(num_classes, in_channels,
                         **{**kwargs, "loss_cls": loss_cls, "init_cfg": init_cfg})
        self.gradient_mul = gradient_mul
        self.point_base_scale = point_base_scale
        self.point_strides = point_strides
        self.prior_generator = MlvlPointGenerator(point_strides, offset=0.0)
        self.sampling = loss_cls["type"] != "FocalLoss"
        if self.train_cfg:
            self.init_assigner: Any = build_assigner(self.train_cfg["init"]["assigner"])
            self.refine_assigner: Any = build_assigner(self.train_cfg["refine"]["assigner"])
        self.transform_method = transform_method
        if transform_method == "moment":
            self.moment_transfer = nn.Parameter(torch.zeros(2))
            self.moment_mul = moment_mul
        self.loss_bbox_init = build_loss(loss_bbox_init)
        self.loss_bbox_refine = build_loss(loss_bbox_refine)

    def _init_layers(self) -> None:
        self.relu = nn.ReLU(inplace=True)
        self.cls_convs = self.tower()
        self.reg_convs = self.tower()
        width, points = self.feat_channels, self.point_feat_channels
        out = 4 if self.use_grid_points else 2 * self.num_points
        side, pad = self.dcn_kernel, self.dcn_pad
        self.reppoints_cls_conv = DeformConv2d(width, points, side, 1, pad)
        self.reppoints_cls_out = nn.Conv2d(points, self.cls_out_channels, 1)
        self.reppoints_pts_init_conv = nn.Conv2d(width, points, 3, padding=1)
        self.reppoints_pts_init_out = nn.Conv2d(points, out, 1)
        self.reppoints_pts_refine_conv = DeformConv2d(width, points, side, 1, pad)
        self.reppoints_pts_refine_out = nn.Conv2d(points, out, 1)

    # --- points and boxes -------------------------------------------------------------------
    def points2bbox(self, pts: Tensor, y_first: bool = True) -> Tensor:
        """Boxes [N, 4, ...] of points [N, 2 P, ...], their coordinates by turns.

        Args:
            pts: of any places.
            y_first: y comes before x.
        """
        pts = pts.unflatten(1, (-1, 2))
        y, x = (pts[:, :, 0], pts[:, :, 1]) if y_first else (pts[:, :, 1], pts[:, :, 0])
        if self.transform_method == "moment":
            # A little of the gradient, so that the multiples do not run away.
            learned = self.moment_transfer * self.moment_mul
            scale = (learned + self.moment_transfer.detach() * (1 - self.moment_mul)).exp()
            mean_x, mean_y = x.mean(1), y.mean(1)
            half_w, half_h = x.std(1) * scale[0], y.std(1) * scale[1]
            return torch.stack([mean_x - half_w, mean_y - half_h, mean_x + half_w,
                                mean_y + half_h], dim=1)
        if self.transform_method == "partial_minmax":
            x, y = x[:, :4], y[:, :4]
        return torch.stack([x.amin(1), y.amin(1), x.amax(1), y.amax(1)], dim=1)

    def gen_grid_from_reg(self, reg: Tensor, previous_boxes: Tensor) -> tuple[Tensor, Tensor]:
        """A grid of points in a moved box.

        Args:
            reg: [B, 4, H, W], shifts in sizes of the box and logarithms of scales.
            previous_boxes: [B or 1, 4, H or 1, W or 1], corners.

        Returns:
            Points ``[B, 2 P, H, W]``, y first, and boxes ``[B, 4, H, W]``.
        """
        low, high = previous_boxes.chunk(2, dim=1)
        size = (high - low).clamp(min=1e-6)
        shift, scale = reg.chunk(2, dim=1)
        wide = size * scale.exp()
        corner = (low + high) / 2 + size * shift - 0.5 * wide
        steps = torch.linspace(0.0, 1.0, self.dcn_kernel, device=reg.device).to(reg.dtype)
        x, y = (corner[:, [i]] + wide[:, [i]] * steps.view(1, -1, 1, 1) for i in (0, 1))
        side = self.dcn_kernel
        grid = torch.stack([y[:, :, None].expand(-1, -1, side, -1, -1),
                            x[:, None].expand(-1, side, -1, -1, -1)], dim=3)
        return grid.flatten(1, 3), torch.cat([corner, corner + wide], dim=1)

    def kernel_offsets(self, like: Tensor) -> Tensor:
        """[1, 2 P, 1, 1], where a convolution's kernel looks, y first."""
        at = torch.arange(-self.dcn_pad, self.dcn_pad + 1, device=like.device).to(like.dtype)
        return torch.stack([at.repeat_interleave(self.dcn_kernel), at.repeat(self.dcn_kernel)],
                           dim=1).view(1, -1, 1, 1)

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """Classes, the first and the second points of one level; in evaluation their boxes.

        Points are ``[B, 2 P, H, W]``, y first, in strides from the place.
        """
        kernel = self.kernel_offsets(x)
        start: Any = 0.0
        reach = self.point_base_scale / 2
        if self.use_grid_points or not self.center_init:
            start = kernel / self.dcn_pad * reach
        classes, boxes = self.features(x)
        first = self.reppoints_pts_init_out(self.relu(self.reppoints_pts_init_conv(boxes)))
        if self.use_grid_points:
            edge = torch.full_like(x[:1, :2, :1, :1], reach)
            first, box = self.gen_grid_from_reg(first, torch.cat([-edge, edge], dim=1))
        else:
            first = first + start
        offset = ((1 - self.gradient_mul) * first.detach() + self.gradient_mul * first) - kernel
        score = self.reppoints_cls_out(self.relu(self.reppoints_cls_conv(classes, offset)))
        second = self.reppoints_pts_refine_out(
            self.relu(self.reppoints_pts_refine_conv(boxes, offset)))
        if self.use_grid_points:
            second, _ = self.gen_grid_from_reg(second, box.detach())
        else:
            second = second + first.detach()
        if self.training:
            return score, first, second
        return score, self.points2bbox(second)

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """What :meth:`forward_single` makes of every level."""
        return multi_apply(self.forward_single, feats)

    def decoded(self, priors: Tensor, pred: Tensor, level: int, max_shape: Any) -> Tensor:
        """Boxes [B, K, 4] of places [B, K, 2] and predictions [B, K, 4] in strides."""
        return clip_boxes(pred * self.point_strides[level] + priors.repeat(1, 1, 2), max_shape)

    # --- losses -----------------------------------------------------------------------------
    def _stage(self, assigner: Any, cfg: Any, candidates: Tensor, gts: GroundTruth,
               valid: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Labels, their weights, boxes, their weights [B, N, ...] and how many samples."""
        inds, _ = assigner.assign_batch(candidates, gts, valid)
        pos, neg = inds > 0, inds == 0
        boxes, labels = gts.of(inds)
        pos_weight = cfg.get("pos_weight", -1)
        weights = neg.to(boxes.dtype) + pos.to(boxes.dtype) * (
            pos_weight if pos_weight > 0 else 1.0)
        num = pos.sum(1).clamp(min=1).sum()
        if self.sampling:
            num = num + neg.sum(1).clamp(min=1).sum()
        return (torch.where(pos, labels, self.num_classes), weights,
                torch.where(pos[..., None], boxes, 0.0),
                pos[..., None].to(boxes.dtype).expand_as(boxes), num)

    def loss(self, cls_scores: list[Tensor], pts_preds_init: list[Tensor],  # type: ignore[override]
             pts_preds_refine: list[Tensor], gt_bboxes: list[Tensor], gt_labels: list[Tensor],
             img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, list[Tensor]]:
        """Losses of each level.

        Args:
            cls_scores: [B, C, H, W] of each level.
            pts_preds_init: [B, 2 P, H, W] of each level.
            pts_preds_refine: [B, 2 P, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: ``pad_shape`` is read.
            gt_bboxes_ignore: [g, 4] of each image.

        Returns:
            ``loss_cls``, ``loss_pts_init`` and ``loss_pts_refine``, lists of scalars.
        """
        sizes, device = [m.shape[-2:] for m in cls_scores], cls_scores[0].device
        points = self.prior_generator.grid_priors(sizes, device=device, with_stride=True)
        per_level = [len(level) for level in points]
        priors = torch.cat(points)
        valid = torch.stack([torch.cat(self.prior_generator.valid_flags(
            sizes, meta["pad_shape"], device)) for meta in img_metas])
        gts = GroundTruth.pad(gt_bboxes, gt_labels, gt_bboxes_ignore)
        flat = [torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
                for maps in (pts_preds_init, pts_preds_refine)]
        # Every box is of points in pixels, y first.
        centre, stride = priors[:, :2].flip(-1), priors[:, 2:3]
        first, second = (self.points2bbox(
            (at_least_float32(pts) * stride + centre.repeat(1, self.num_points)).flatten(0, 1)
        ).unflatten(0, valid.shape) for pts in flat)
        half = self.point_base_scale * stride * 0.5
        by_points = self.train_cfg["init"]["assigner"]["type"] == "PointAssigner"
        start = priors if by_points else torch.cat([priors[:, :2] - half, priors[:, :2] + half], 1)
        init = self._stage(self.init_assigner, self.train_cfg["init"], start, gts, valid)
        refine = self._stage(self.refine_assigner, self.train_cfg["refine"], first.detach(), gts,
                             valid)
        scores = [at_least_float32(m.flatten(2).transpose(1, 2)).flatten(0, 1)
                  for m in cls_scores]
        of_classes = [
            self.loss_cls(score, label.flatten(), weight.flatten(), avg_factor=refine[4])
            for score, label, weight in zip(scores, refine[0].split(per_level, 1),
                                            refine[1].split(per_level, 1))]
        losses: dict[str, list[Tensor]] = {"loss_cls": of_classes}
        unit = self.point_base_scale * stride
        for name, loss, boxes, stage in (
                ("loss_pts_init", self.loss_bbox_init, first, init),
                ("loss_pts_refine", self.loss_bbox_refine, second, refine)):
            losses[name] = [
                loss(box.flatten(0, 1), target.flatten(0, 1), weight.flatten(0, 1),
                     avg_factor=stage[4])
                for box, target, weight in zip((boxes / unit).split(per_level, 1),
                                               (stage[2] / unit).split(per_level, 1),
                                               stage[3].split(per_level, 1))]
        return losses
