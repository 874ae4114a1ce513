"""FoveaBox (arXiv 1904.03797): the middle of an object predicts it, on the levels of its size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.core.bbox import GroundTruth
from fastdet.core.utils import multi_apply
from fastdet.ops import DeformConv2d
from fastdet.runner import BaseModule

from ..builder import HEADS
from ..losses.utils import at_least_float32
from .anchor_free_head import AnchorFreeHead
from .base_dense_head import Meta

__all__ = ["FeatureAlign", "FoveaHead"]


class FeatureAlign(BaseModule):
    """A deformable convolution whose offsets are made from predicted boxes.

    A subclass may make them from another number of channels.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: of the convolution.
        deform_groups: groups of channels with offsets of their own.
        init_cfg: how weights are initialised.
    """

    #: Numbers that describe a box.
    shape_channels = 4

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3,
                 deform_groups: int = 4,
                 init_cfg: Any = dict(type="Normal", layer="Conv2d", std=0.1,
                                      override=dict(type="Normal", name="conv_adaption",
                                                    std=0.01))) -> None:
        super().__init__(init_cfg)
        self.conv_offset = nn.Conv2d(self.shape_channels,
                                     deform_groups * kernel_size * kernel_size * 2, 1, bias=False)
        self.conv_adaption = DeformConv2d(in_channels, out_channels, kernel_size,
                                          padding=(kernel_size - 1) // 2,
                                          deform_groups=deform_groups)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor, shape: Tensor) -> Tensor:
        """Features [B, C, H, W] aligned with boxes [B, 4, H, W]."""
        return self.relu(self.conv_adaption(x, self.conv_offset(shape)))


@HEADS.register_module()
class FoveaHead(AnchorFreeHead):
    """Classes, and the logarithm of the distances to a box's sides.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        base_edge_list: of each level, the unit of the distances in pixels.
        scale_ranges: of each level, the least and the largest root of the areas that it learns.
        sigma: of the fovea, in sides of the box.
        with_deform: the features of the classes are aligned with the boxes.
        deform_groups: of the alignment.
        init_cfg: how weights are initialised.
        kwargs: of :class:`AnchorFreeHead`.
    """

    def __init__(self, num_classes: int, in_channels: int,
                 base_edge_list: Sequence[float] = (16, 32, 64, 128, 256),
                 scale_ranges: Sequence[tuple[float, float]] = (
                     (8, 32), (16, 64), (32, 128), (64, 256), (128, 512)),
                 sigma: float = 0.4, with_deform: bool = False, deform_groups: int = 4,
                 init_cfg: Any = dict(
                     type="Normal", layer="Conv2d", std=0.01,
                     override=dict(type="Normal", name="conv_cls", std=0.01, bias_prob=0.01)),
                 **kwargs: Any) -> None:
        self.base_edge_list = base_edge_list
        self.scale_ranges = scale_ranges
        self.sigma = sigma
        self.with_deform = with_deform
        self.deform_groups = deform_groups
        super().__init__(num_classes, in_channels, init_cfg=init_cfg, **kwargs)

    def _init_layers(self) -> None:
        self.reg_convs = self.tower()
        self.conv_reg = nn.Conv2d(self.feat_channels, 4, 3, padding=1)
        if not self.with_deform:
            self.cls_convs = self.tower()
            self.conv_cls = nn.Conv2d(self.feat_channels, self.cls_out_channels, 3, padding=1)
            return
        wide = self.feat_channels * 4
        self.cls_convs = nn.ModuleList([
            ConvModule(inside, wide, size, padding=size // 2, conv_cfg=self.conv_cfg,
                       norm_cfg=self.norm_cfg, bias=self.norm_cfg is None)
            for inside, size in ((self.feat_channels, 3), (wide, 1))])
        self.feature_adaption = FeatureAlign(self.feat_channels, self.feat_channels, 3,
                                             self.deform_groups)
        self.conv_cls = nn.Conv2d(wide, self.cls_out_channels, 3, padding=1)

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """Scores [B, C, H, W] and log distances [B, 4, H, W] of one level."""
        classes = boxes = x
        for conv in self.reg_convs:
            boxes = conv(boxes)
        pred = self.conv_reg(boxes)
        if self.with_deform:
            classes = self.feature_adaption(classes, pred.exp())
        for conv in self.cls_convs:
            classes = conv(classes)
        return self.conv_cls(classes), pred

    def decoded(self, priors: Tensor, pred: Tensor, level: int, max_shape: Any) -> Tensor:
        off = pred.exp() * self.base_edge_list[level]
        boxes = torch.cat([priors - off[..., :2], priors + off[..., 2:]], dim=-1)
        last = boxes.new_tensor([[w - 1, h - 1, w - 1, h - 1] for h, w, *_ in max_shape])
        return torch.minimum(boxes.clamp(min=0), last[:, None])

    # --- targets ----------------------------------------------------------------------------
    def targets(self, sizes: Sequence[Sequence[int]], dtype: torch.dtype,
                gts: GroundTruth) -> tuple[Tensor, Tensor]:
        """What each point learns: of the gts in whose fovea it is, the smallest.

        Args:
            sizes: height and width of each level.
            dtype: of the points.
            gts: of the batch.

        Returns:
            Labels ``[B, N]``, ``num_classes`` for background, and log distances ``[B, N, 4]``.
        """
        points = self.prior_generator.grid_priors(sizes, dtype=dtype, device=gts.boxes.device)
        labels, targets = multi_apply(
            self._targets_of_level, points, sizes, self.base_edge_list, self.scale_ranges,
            self.strides, gts=gts)
        return torch.cat(labels, dim=1), torch.cat(targets, dim=1)

    def _targets_of_level(self, points: Tensor, size: Sequence[int], base: float,
                          scale: tuple[float, float], stride: float,
                          gts: GroundTruth) -> tuple[Tensor, Tensor]:
        (h, w), (b, g) = size, gts.labels.shape
        if g == 0:
            return (gts.labels.new_full((b, h * w), self.num_classes),
                    points.new_zeros((b, h * w, 4)))
        edge = (gts.boxes[..., 2:] - gts.boxes[..., :2]).prod(-1).sqrt()  # [B, G]
        there = torch.arange(g, device=edge.device) < gts.counts[:, None]
        hit = there & (edge >= scale[0]) & (edge <= scale[1])
        low, high = gts.boxes[..., :2] / stride, gts.boxes[..., 2:] / stride
        half = 0.5 * (high - low)
        last = half.new_tensor([w - 1, h - 1])
        first = torch.minimum((low + (1 - self.sigma) * half - 0.5).ceil().clamp(min=0), last)
        final = torch.minimum((low + (1 + self.sigma) * half - 0.5).floor().clamp(min=0), last)
        index = torch.arange(h * w, device=edge.device)
        cell = torch.stack([index % w, index // w], dim=1)[:, None]
        inside = ((cell >= first[:, None]) & (cell <= final[:, None])).all(-1) & hit[:, None]
        # The smallest one, and of equal ones the last.
        rank = edge.sort(descending=True, stable=True).indices.argsort()
        best, gt = torch.where(inside, rank[:, None], -1).max(-1)
        boxes, labels = gts.of(gt + 1)
        pos = best >= 0
        off = torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1) / base
        off = torch.where(pos[..., None], off, 1.0).clamp(min=1.0 / 16, max=16.0).log()
        return torch.where(pos, labels, self.num_classes), off

    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             gt_bboxes: list[Tensor], gt_labels: list[Tensor], img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Losses of all levels together.

        Args:
            cls_scores: [B, C, H, W] of each level.
            bbox_preds: [B, 4, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: not used.
            gt_bboxes_ignore: not used.

        Returns:
            ``loss_cls`` and ``loss_bbox``, scalars.
        """
        labels, targets = self.targets([m.shape[-2:] for m in cls_scores], bbox_preds[0].dtype,
                                       GroundTruth.pad(gt_bboxes, gt_labels))
        batch = len(labels)
        labels = labels.flatten()
        pos = (labels >= 0) & (labels < self.num_classes)
        num_pos = at_least_float32(pos.sum().to(cls_scores[0].dtype))
        pred = self.flattened(bbox_preds, 4)
        weight = pos[:, None].to(pred.dtype).expand_as(pred)
        return {
            "loss_cls": self.loss_cls(self.flattened(cls_scores, self.cls_out_channels), labels,
                                      avg_factor=num_pos + batch),
            "loss_bbox": self.loss_bbox(pred, targets.flatten(0, 1), weight,
                                        avg_factor=num_pos.clamp(min=1))}
