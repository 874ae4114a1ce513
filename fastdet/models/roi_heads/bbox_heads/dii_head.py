"""Proposals that look at each other and at their regions (Sparse R-CNN, arXiv 2011.12450)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import (
    FFN,
    MultiheadAttention,
    bias_init_with_prob,
    build_activation_layer,
    build_norm_layer,
)
from fastdet.core.bbox.samplers.samples import Samples
from fastdet.core.utils import reduce_mean

from ...builder import HEADS, build_loss
from ...losses.utils import at_least_float32
from ...utils import build_transformer
from .bbox_head import BBoxHead

__all__ = ["DIIHead"]


@HEADS.register_module()
class DIIHead(BBoxHead):
    """Self-attention of the proposals, dynamic convolution of their regions, classes and boxes.

    Args:
        num_classes: foreground classes.
        num_ffn_fcs: linear layers of the feed-forward network.
        num_heads: heads of the attention.
        num_cls_fcs: linear layers of the classes, less the last.
        num_reg_fcs: linear layers of the boxes, less the last.
        feedforward_channels: hidden channels of the feed-forward network.
        in_channels: of proposals and regions.
        dropout: probability of all dropouts.
        ffn_act_cfg: config of the activation of the feed-forward network.
        dynamic_conv_cfg: config of the dynamic convolution.
        loss_iou: config of the loss of the overlap.
        init_cfg: must be ``None``; ``init_weights`` has its own rules.
        kwargs: of :class:`BBoxHead`.

    Raises:
        ValueError: ``init_cfg`` is given.
    """

    fc_cls: Any
    fc_reg: Any

    def __init__(self, num_classes: int = 80, num_ffn_fcs: int = 2, num_heads: int = 8,
                 num_cls_fcs: int = 1, num_reg_fcs: int = 3, feedforward_channels: int = 2048,
                 in_channels: int = 256, dropout: float = 0.0,
                 ffn_act_cfg: dict[str, Any] = dict(type="ReLU", inplace=True),
                 dynamic_conv_cfg: dict[str, Any] = dict(
                     type="DynamicConv", in_channels=256, feat_channels=64, out_channels=256,
                     input_feat_shape=7, act_cfg=dict(type="ReLU", inplace=True),
                     norm_cfg=dict(type="LN")),
                 loss_iou: dict[str, Any] = dict(type="GIoULoss", loss_weight=2.0),
                 init_cfg: Any = None, **kwargs: Any) -> None:
        if init_cfg is not None:
            raise ValueError(f"{type(self).__name__} initialises its weights itself, got "
                             f"init_cfg={init_cfg!r}")
        super().__init__(num_classes=num_classes, reg_decoded_bbox=True, reg_class_agnostic=True,
                         init_cfg=[], **kwargs)
        self.loss_iou = build_loss(loss_iou)
        self.in_channels = in_channels
        self.attention = MultiheadAttention(in_channels, num_heads, dropout)
        self.attention_norm = build_norm_layer(dict(type="LN"), in_channels)[1]
        self.instance_interactive_conv = build_transformer(dynamic_conv_cfg)
        self.instance_interactive_conv_dropout = nn.Dropout(dropout)
        self.instance_interactive_conv_norm = build_norm_layer(dict(type="LN"), in_channels)[1]
        self.ffn = FFN(in_channels, feedforward_channels, num_ffn_fcs, act_cfg=ffn_act_cfg,
                       ffn_drop=dropout)
        self.ffn_norm = build_norm_layer(dict(type="LN"), in_channels)[1]
        self.cls_fcs = self._tower(num_cls_fcs)
        self.fc_cls = nn.Linear(in_channels, num_classes if self.loss_cls.use_sigmoid
                                else num_classes + 1)
        self.reg_fcs = self._tower(num_reg_fcs)
        self.fc_reg = nn.Linear(in_channels, 4)

    def _tower(self, num: int) -> nn.ModuleList:
        width = self.in_channels
        return nn.ModuleList([layer for _ in range(num) for layer in (
            nn.Linear(width, width, bias=False), build_norm_layer(dict(type="LN"), width)[1],
            build_activation_layer(dict(type="ReLU", inplace=True)))])

    def init_weights(self) -> None:
        """Xavier's uniform distribution for matrices; scores start at 0.01."""
        super().init_weights()
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)
        if self.loss_cls.use_sigmoid:
            nn.init.constant_(self.fc_cls.bias, bias_init_with_prob(0.01))

    def forward(self, roi_feat: Tensor,  # type: ignore[override]
                proposal_feat: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Classes, boxes and features of proposals.

        Args:
            roi_feat: [B N, C, h, w], pooled regions.
            proposal_feat: [B, N, C].

        Returns:
            Logits ``[B, N, classes]``, deltas ``[B, N, 4]``, the proposals' features ``[B, N, C]``
            and those right after the attention.
        """
        b, n = proposal_feat.shape[:2]
        # The attention takes the proposals first.
        attended = self.attention_norm(
            self.attention(proposal_feat.transpose(0, 1))).transpose(0, 1)
        own = attended.flatten(0, 1)
        looked = self.instance_interactive_conv_dropout(
            self.instance_interactive_conv(own, roi_feat))
        feats = self.ffn_norm(self.ffn(self.instance_interactive_conv_norm(own + looked)))
        of_class = of_box = feats
        for layer in self.cls_fcs:
            of_class = layer(of_class)
        for layer in self.reg_fcs:
            of_box = layer(of_box)
        return (self.fc_cls(of_class).view(b, n, -1), self.fc_reg(of_box).view(b, n, 4),
                feats.view(b, n, -1), attended)

    def get_targets(self, sampling_results: Any, gt_bboxes: Any, gt_labels: Any,
                    rcnn_train_cfg: Any, concat: bool = True) -> Any:
        """What each proposal learns, in the order of the proposals.

        Args:
            sampling_results: :class:`Samples` in that order, or one ``SamplingResult`` of each
                image that has all proposals.
            gt_bboxes: not used; the samples know their gts.
            gt_labels: likewise.
            rcnn_train_cfg: ``pos_weight`` is read.
            concat: of all images in a row, else of each.
        """
        if isinstance(sampling_results, Samples):
            b = len(sampling_results.valid)
            found = [t.unflatten(0, (b, -1)) for t in self.targets(sampling_results,
                                                                   rcnn_train_cfg)]
        else:
            # Samplers put positives first.
            order = torch.stack([torch.cat([r.pos_inds, r.neg_inds])
                                 for r in sampling_results]).argsort(1)
            image = torch.arange(len(order), device=order.device)[:, None]
            found = [t.unflatten(0, order.shape)[image, order]
                     for t in self.targets(Samples.pad(sampling_results), rcnn_train_cfg)]
        return tuple(t.flatten(0, 1) if concat else list(t) for t in found)

    def loss(self, cls_score: Tensor | None, bbox_pred: Tensor | None,  # type: ignore[override]
             labels: Tensor, label_weights: Tensor, bbox_targets: Tensor, bbox_weights: Tensor,
             imgs_whwh: Tensor | None = None, reduction_override: str | None = None,
             **kwargs: Any) -> dict[str, Tensor]:
        """Losses of proposals.

        Args:
            cls_score: [B N, classes].
            bbox_pred: [B N, 4], corners in pixels.
            labels: [B N].
            label_weights: [B N].
            bbox_targets: [B N, 4], corners in pixels.
            bbox_weights: [B N, 4].
            imgs_whwh: [B, N, 4], width and height of each proposal's image, twice.
            reduction_override: in place of the losses' own reduction.
            kwargs: not used.

        Returns:
            ``loss_cls`` and ``pos_acc``, ``loss_bbox`` and ``loss_iou``.
        """
        losses = {}
        pos = (labels >= 0) & (labels < self.num_classes)
        num_pos = reduce_mean(at_least_float32(pos.sum().to(bbox_targets.dtype)))
        if cls_score is not None and cls_score.numel() > 0:
            cls_score = at_least_float32(cls_score)
            losses["loss_cls"] = self.loss_cls(cls_score, labels, label_weights,
                                               avg_factor=num_pos,
                                               reduction_override=reduction_override)
            right = ((cls_score.argmax(1) == labels) & pos).sum()
            losses["pos_acc"] = right * (100.0 / pos.sum().clamp(min=1))
        if bbox_pred is not None:
            if imgs_whwh is None:
                raise ValueError(f"{type(self).__name__}: the loss of boxes needs imgs_whwh")
            # What is not positive predicts its target: no NaN whose weight is zero.
            bbox_targets = at_least_float32(bbox_targets)
            pred = torch.where(pos[:, None], at_least_float32(bbox_pred).reshape(-1, 4),
                               bbox_targets)
            size = imgs_whwh.reshape(-1, 4)
            losses["loss_bbox"] = self.loss_bbox(pred / size, bbox_targets / size, bbox_weights,
                                                 avg_factor=num_pos)
            losses["loss_iou"] = self.loss_iou(pred, bbox_targets, bbox_weights,
                                               avg_factor=num_pos)
        return losses
