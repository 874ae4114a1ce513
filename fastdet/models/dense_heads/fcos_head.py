"""FCOS (arXiv 1904.01355): every point inside a box regresses its four sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import Scale
from fastdet.core.bbox import GroundTruth
from fastdet.core.bbox.transforms import bbox2distance
from fastdet.core.utils import multi_apply, reduce_mean

from ..builder import HEADS, build_loss
from .anchor_free_head import AnchorFreeHead
from .base_dense_head import Meta

__all__ = ["FCOSHead"]

INF = 1e8


@HEADS.register_module()
class FCOSHead(AnchorFreeHead):
    """Classes, distances to the sides, and how central a point is.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        regress_ranges: of each level, the least and the largest distance that it regresses.
        center_sampling: only points near a box's centre learn it.
        center_sample_radius: how near, in strides.
        norm_on_bbox: distances are in strides.
        centerness_on_reg: the box's tower predicts how central a point is.
        loss_cls: config of the classification loss.
        loss_bbox: config of the box loss.
        loss_centerness: config of the loss of centrality.
        norm_cfg: config of the norms.
        init_cfg: how weights are initialised.
        kwargs: of :class:`AnchorFreeHead`.
    """

    def __init__(self, num_classes: int, in_channels: int,
                 regress_ranges: Sequence[tuple[float, float]] = (
                     (-1, 64), (64, 128), (128, 256), (256, 512), (512, INF)),
                 center_sampling: bool = False, center_sample_radius: float = 1.5,
                 norm_on_bbox: bool = False, centerness_on_reg: bool = False,
                 loss_cls: dict[str, Any] = dict(type="FocalLoss", use_sigmoid=True, gamma=2.0,
                                                 alpha=0.25, loss_weight=1.0),
                 loss_bbox: dict[str, Any] = dict(type="IoULoss", loss_weight=1.0),
                 loss_centerness: dict[str, Any] = dict(type="CrossEntropyLoss",
                                                        use_sigmoid=True, loss_weight=1.0),
                 norm_cfg: Any = dict(type="GN", num_groups=32, requires_grad=True),
                 init_cfg: Any = dict(
                     type="Normal", layer="Conv2d", std=0.01,
                     override=dict(type="Normal", name="conv_cls", std=0.01, bias_prob=0.01)),
                 **kwargs: Any) -> None:
        self.regress_ranges = regress_ranges
        self.center_sampling = center_sampling
        self.center_sample_radius = center_sample_radius
        self.norm_on_bbox = norm_on_bbox
        self.centerness_on_reg = centerness_on_reg
        super().__init__(num_classes, in_channels, loss_cls=loss_cls, loss_bbox=loss_bbox,
                         norm_cfg=norm_cfg, init_cfg=init_cfg, **kwargs)
        self.loss_centerness = build_loss(loss_centerness)

    def _init_layers(self) -> None:
        super()._init_layers()
        self.conv_centerness = nn.Conv2d(self.feat_channels, 1, 3, padding=1)
        self.scales = nn.ModuleList([Scale(1.0) for _ in self.strides])

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Scores [B, C, H, W], distances [B, 4, H, W] and centrality [B, 1, H, W] of each level."""
        return multi_apply(self.forward_single, feats, self.scales, self.strides)

    def forward_single(self, x: Tensor, scale: nn.Module,  # type: ignore[override]
                       stride: int) -> tuple[Tensor, ...]:
        """Scores, distances and centrality of one level."""
        score, distance, classes, boxes = super().forward_single(x)
        centerness = self.conv_centerness(boxes if self.centerness_on_reg else classes)
        return score, self.distances(scale(distance).float(), stride), centerness

    def distances(self, raw: Tensor, stride: int) -> Tensor:
        """Positive distances; in pixels where they are not normalised or in evaluation."""
        if not self.norm_on_bbox:
            return raw.exp()
        raw = raw.clamp(min=0)
        return raw if self.training else raw * stride

    # --- targets ----------------------------------------------------------------------------
    def targets(self, points: Tensor, strides: Tensor, level: Tensor,
                gts: GroundTruth) -> tuple[Tensor, Tensor]:
        """What each point learns: of the boxes it may learn the smallest.

        Args:
            points: [N, 2].
            strides: [N].
            level: [N].
            gts: of the batch.

        Returns:
            Labels ``[B, N]``, ``num_classes`` for background, and distances ``[B, N, 4]``.
        """
        b, g = gts.labels.shape
        if g == 0:
            return (level.new_full((b, len(points)), self.num_classes),
                    points.new_zeros((b, len(points), 4)))
        boxes = gts.boxes[:, None]
        off = bbox2distance(points[:, None], boxes)  # [B, N, G, 4]
        if self.center_sampling:
            centre = (boxes[..., :2] + boxes[..., 2:]) / 2
            reach = (strides * self.center_sample_radius)[:, None, None]
            core = torch.cat([torch.maximum(centre - reach, boxes[..., :2]),
                              torch.minimum(centre + reach, boxes[..., 2:])], dim=-1)
            inside = bbox2distance(points[:, None], core).amin(-1) > 0
        else:
            inside = off.amin(-1) > 0
        ranges = points.new_tensor(self.regress_ranges)[level]
        longest = off.amax(-1)
        fits = (longest >= ranges[:, None, 0]) & (longest <= ranges[:, None, 1])
        there = torch.arange(g, device=points.device) < gts.counts[:, None]
        size = (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
        least, which = torch.where(inside & fits & there[:, None], size, INF).min(-1)
        labels = torch.where(least == INF, self.num_classes, gts.labels.gather(1, which))
        off = off.gather(2, which[..., None, None].expand(-1, -1, 1, 4))[:, :, 0]
        return labels, off / strides[:, None] if self.norm_on_bbox else off

    def centerness_target(self, pos_bbox_targets: Tensor) -> Tensor:
        """How central a point is, [N], of its distances [N, 4] (eq. 3)."""
        across, down = pos_bbox_targets[..., [0, 2]], pos_bbox_targets[..., [1, 3]]
        return torch.sqrt(across.amin(-1) / across.amax(-1) * (down.amin(-1) / down.amax(-1)))

    # --- losses -----------------------------------------------------------------------------
    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             centernesses: list[Tensor], gt_bboxes: list[Tensor], gt_labels: list[Tensor],
             img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Losses of all levels together.

        Args:
            cls_scores: [B, C, H, W] of each level.
            bbox_preds: [B, 4, H, W] of each level.
            centernesses: [B, 1, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: not used.
            gt_bboxes_ignore: not used.

        Returns:
            ``loss_cls``, ``loss_bbox`` and ``loss_centerness``, scalars.
        """
        points, strides, level = self.points(cls_scores, bbox_preds[0].dtype)
        labels, off = self.targets(points, strides, level, GroundTruth.pad(gt_bboxes, gt_labels))
        batch = len(labels)
        labels, off = labels.flatten(), off.flatten(0, 1).to(points.dtype)
        pos = (labels >= 0) & (labels < self.num_classes)
        weight = pos.to(points.dtype)
        num_pos = reduce_mean(weight.sum()).clamp(min=1.0)
        score = self.flattened(cls_scores, self.cls_out_channels)
        of_class = self.loss_cls(score, labels, avg_factor=num_pos)

        # What is not positive gets a box of its own to predict: no NaN whose weight is zero.
        off = torch.where(pos[:, None], off, 1.0)
        pred = torch.where(pos[:, None], self.flattened(bbox_preds, 4), 1.0)
        central = self.centerness_target(off) * weight
        total = reduce_mean(central.sum().detach()).clamp(min=1e-6)
        at = points.repeat(batch, 1)
        of_box = self.loss_bbox(self.bbox_coder.decode(at, pred), self.bbox_coder.decode(at, off),
                                weight=central, avg_factor=total)
        of_centre = self.loss_centerness(self.flattened(centernesses, 1)[:, 0], central,
                                         weight=weight, avg_factor=num_pos)
        return {"loss_cls": of_class, "loss_bbox": of_box, "loss_centerness": of_centre}
