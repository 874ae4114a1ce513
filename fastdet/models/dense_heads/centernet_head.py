"""CenterNet's head (arXiv 1904.07850): an object is the point at its centre."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import bias_init_with_prob, normal_init
from fastdet.core.utils import multi_apply

from ..builder import HEADS, build_loss
from ..utils.gaussian_target import (
    centernet_targets,
    get_local_maximum,
    get_topk_from_heatmap,
    transpose_and_gather_feat,
)
from .base_dense_head import BaseDenseHead, Meta
from .candidates import Detections, Metas, each, scale_factors

__all__ = ["CenterNetHead"]


@HEADS.register_module()
class CenterNetHead(BaseDenseHead):
    """A heat map for each class, a size and an offset at every cell of one map.

    Args:
        in_channel: of the feature map.
        feat_channel: of hidden maps.
        num_classes: foreground classes.
        loss_center_heatmap: config of the loss of the heat maps.
        loss_wh: config of the loss of the sizes.
        loss_offset: config of the loss of the offsets.
        train_cfg: not used.
        test_cfg: ``topk``, ``local_maximum_kernel``, and for several views ``nms`` and
            ``max_per_img``.
        init_cfg: how weights are initialised.
    """

    def __init__(self, in_channel: int, feat_channel: int, num_classes: int,
                 loss_center_heatmap: dict[str, Any] = dict(type="GaussianFocalLoss",
                                                            loss_weight=1.0),
                 loss_wh: dict[str, Any] = dict(type="L1Loss", loss_weight=0.1),
                 loss_offset: dict[str, Any] = dict(type="L1Loss", loss_weight=1.0),
                 train_cfg: Any = None, test_cfg: Any = None, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.num_classes = num_classes
        self.heatmap_head = self._branch(in_channel, feat_channel, num_classes)
        self.wh_head = self._branch(in_channel, feat_channel, 2)
        self.offset_head = self._branch(in_channel, feat_channel, 2)
        self.loss_center_heatmap = build_loss(loss_center_heatmap)
        self.loss_wh = build_loss(loss_wh)
        self.loss_offset = build_loss(loss_offset)
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        self.fp16_enabled = False

    @staticmethod
    def _branch(in_channel: int, feat_channel: int, out_channel: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(in_channel, feat_channel, 3, padding=1),
                             nn.ReLU(inplace=True), nn.Conv2d(feat_channel, out_channel, 1))

    def init_weights(self) -> None:
        """A heat of 0.1 everywhere, sizes and offsets near zero."""
        nn.init.constant_(self.heatmap_head[-1].bias, bias_init_with_prob(0.1))  # type: ignore
        for branch in (self.wh_head, self.offset_head):
            for layer in branch:
                if isinstance(layer, nn.Conv2d):
                    normal_init(layer, std=0.001)

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Heat [B, C, H, W] in (0, 1), sizes [B, 2, H, W] and offsets [B, 2, H, W] of each map."""
        return multi_apply(self.forward_single, feats)

    def forward_single(self, feat: Tensor) -> tuple[Tensor, ...]:
        """Heat, sizes and offsets of one map, in cells."""
        return self.heatmap_head(feat).sigmoid(), self.wh_head(feat), self.offset_head(feat)

    @staticmethod
    def _only(*maps: Sequence[Tensor]) -> list[Tensor]:
        for one in maps:
            if len(one) != 1:
                raise ValueError(f"CenterNetHead works on one map, got {len(one)}")
        return [one[0] for one in maps]

    def loss(self, center_heatmap_preds: list[Tensor],  # type: ignore[override]
             wh_preds: list[Tensor], offset_preds: list[Tensor], gt_bboxes: list[Tensor],
             gt_labels: list[Tensor], img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Losses of a batch.

        Args:
            center_heatmap_preds: one map [B, C, H, W] of probabilities.
            wh_preds: one map [B, 2, H, W].
            offset_preds: one map [B, 2, H, W].
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: ``pad_shape`` of the first image is read.
            gt_bboxes_ignore: not used.

        Returns:
            ``loss_center_heatmap``, ``loss_wh`` and ``loss_offset``, scalars.

        Raises:
            ValueError: there is not one map.
        """
        heat, size, offset = self._only(center_heatmap_preds, wh_preds, offset_preds)
        target, factor = self.get_targets(gt_bboxes, gt_labels, heat.shape,
                                          img_metas[0]["pad_shape"])
        weight = target["wh_offset_target_weight"]
        return {
            "loss_center_heatmap": self.loss_center_heatmap(
                heat, target["center_heatmap_target"], avg_factor=factor),
            "loss_wh": self.loss_wh(size, target["wh_target"], weight, avg_factor=factor * 2),
            "loss_offset": self.loss_offset(offset, target["offset_target"], weight,
                                            avg_factor=factor * 2)}

    def get_targets(self, gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                    feat_shape: Sequence[int],
                    img_shape: Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
        """What the maps learn, and the number of centres (:func:`centernet_targets`)."""
        return centernet_targets(gt_bboxes, gt_labels, feat_shape, img_shape)

    def decode_heatmap(self, center_heatmap_pred: Tensor, wh_pred: Tensor, offset_pred: Tensor,
                       img_shape: Sequence[int], k: int = 100,
                       kernel: int = 3) -> tuple[Tensor, Tensor]:
        """The highest peaks as boxes.

        Args:
            center_heatmap_pred: [B, C, H, W].
            wh_pred: [B, 2, H, W].
            offset_pred: [B, 2, H, W].
            img_shape: height and width of the input.
            k: how many peaks.
            kernel: side of the neighbourhood in which a peak is the maximum.

        Returns:
            Boxes and scores ``[B, k, 5]`` in pixels of the input, and classes ``[B, k]``.
        """
        height, width = center_heatmap_pred.shape[2:]
        scores, cell, labels, y, x = get_topk_from_heatmap(
            get_local_maximum(center_heatmap_pred, kernel=kernel), k=k)
        half = transpose_and_gather_feat(wh_pred, cell) / 2
        centre = torch.stack([x, y], dim=-1) + transpose_and_gather_feat(offset_pred, cell)
        x, y = torch.stack([centre - half, centre + half], dim=-1).unbind(-2)
        x, y = x * (img_shape[1] / width), y * (img_shape[0] / height)
        return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1], scores], dim=-1), labels

    @torch.no_grad()
    def detect(self, outs: tuple[Any, ...], img_metas: Metas, cfg: Any = None,
               rescale: bool = False) -> Detections:
        """As :meth:`BaseDenseHead.detect`; every peak is a detection."""
        cfg = self.test_cfg if cfg is None else cfg
        heat, size, offset = self._only(*outs)
        metas = each(img_metas)
        found, labels = self.decode_heatmap(
            heat, size, offset, metas[0]["batch_input_shape"], k=cfg["topk"],
            kernel=cfg["local_maximum_kernel"])
        # The input is the image with a border (top, bottom, left, right) around it.
        left_top = torch.stack([found.new_tensor([meta["border"][2], meta["border"][0]])
                                for meta in metas])
        boxes = found[..., :4] - left_top.repeat(1, 2)[:, None]
        if rescale:
            boxes = boxes / scale_factors(boxes, img_metas)
        return Detections(torch.cat([boxes, found[..., 4:]], dim=-1), labels,
                          labels.new_full(labels.shape[:1], labels.shape[1]))

    def get_bboxes(self, *outs: Any, img_metas: list[Meta], cfg: Any = None,  # type: ignore
                   rescale: bool = True, with_nms: bool = False) -> list[tuple[Tensor, ...]]:
        """As :meth:`BaseDenseHead.get_bboxes`; with ``with_nms`` also suppressed."""
        cfg = self.test_cfg if cfg is None else cfg
        found, labels, _ = self.detect(outs, img_metas, cfg, rescale)
        if not with_nms:
            return list(zip(found, labels))
        return [self.suppressed(boxes[:, :4], boxes[:, 4], classes, cfg)
                for boxes, classes in zip(found, labels)]
