"""Masks and classes of queries, matched one to one (MaskFormer, arXiv 2107.06278)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import (
    build_plugin_layer,
    build_positional_encoding,
    build_transformer_layer_sequence,
    caffe2_xavier_init,
)
from fastdet.core.bbox import build_assigner
from fastdet.core.bbox.assigners.hungarian_assigner import least_cost_matchings
from fastdet.core.utils import reduce_mean
from fastdet.runner import BaseModule

from ..builder import HEADS, build_loss
from ..losses.utils import at_least_float32
from ..utils import preprocess_panoptic_gt
from ..utils.padding import padding_mask
from .base_dense_head import Meta
from .detr_head import DETRHead

__all__ = ["MaskFormerHead"]


@HEADS.register_module()
class MaskFormerHead(BaseModule):
    """A mask and a class, or none, for each query.

    Args:
        in_channels: of each feature map, the finest first.
        feat_channels: of the pixel decoder and the queries.
        out_channels: of the map that queries are compared with.
        num_things_classes: classes of things, the first ones.
        num_stuff_classes: classes of stuff, behind them.
        num_queries: how many masks are predicted.
        pixel_decoder: its config, less the channels.
        enforce_decoder_input_project: project what the queries look at, whatever its channels.
        transformer_decoder: its config.
        positional_encoding: its config.
        loss_cls: config of the classification loss, with ``class_weight``.
        loss_mask: config of the loss of each pixel.
        loss_dice: config of the loss of each mask.
        train_cfg: ``assigner``.
        test_cfg: not used; settings of the fusion head.
        init_cfg: how weights are initialised.
        kwargs: not used.
    """

    pixel_decoder: Any
    transformer_decoder: Any
    decoder_input_proj: Any

    def __init__(self, in_channels: Sequence[int], feat_channels: int, out_channels: int,
                 num_things_classes: int = 80, num_stuff_classes: int = 53,
                 num_queries: int = 100, pixel_decoder: Any = None,
                 enforce_decoder_input_project: bool = False, transformer_decoder: Any = None,
                 positional_encoding: Any = None,
                 loss_cls: dict[str, Any] = dict(
                     type="CrossEntropyLoss", use_sigmoid=False, loss_weight=1.0,
                     class_weight=[1.0] * 133 + [0.1]),
                 loss_mask: dict[str, Any] = dict(type="FocalLoss", use_sigmoid=True, gamma=2.0,
                                                  alpha=0.25, loss_weight=20.0),
                 loss_dice: dict[str, Any] = dict(type="DiceLoss", use_sigmoid=True, activate=True,
                                                  naive_dice=True, loss_weight=1.0),
                 train_cfg: Any = None, test_cfg: Any = None, init_cfg: Any = None,
                 **kwargs: Any) -> None:
        super().__init__(init_cfg)
        self.num_things_classes = num_things_classes
        self.num_stuff_classes = num_stuff_classes
        self.num_classes = num_things_classes + num_stuff_classes
        self.num_queries = num_queries
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        self.class_weight = loss_cls["class_weight"]
        self.pixel_decoder = build_plugin_layer({
            **pixel_decoder, "in_channels": in_channels, "feat_channels": feat_channels,
            "out_channels": out_channels})[1]
        self.transformer_decoder = build_transformer_layer_sequence(transformer_decoder)
        self.decoder_embed_dims = self.transformer_decoder.embed_dims
        self._init_queries(in_channels, feat_channels, out_channels,
                           pixel_decoder["type"] == "PixelDecoder", enforce_decoder_input_project,
                           build_positional_encoding(positional_encoding))
        self.cls_embed = nn.Linear(feat_channels, self.num_classes + 1)
        self.mask_embed = nn.Sequential(
            nn.Linear(feat_channels, feat_channels), nn.ReLU(inplace=True),
            nn.Linear(feat_channels, feat_channels), nn.ReLU(inplace=True),
            nn.Linear(feat_channels, out_channels))
        self.loss_cls = build_loss(loss_cls)
        self.loss_mask = build_loss(loss_mask)
        self.loss_dice = build_loss(loss_dice)
        if train_cfg:
            self.assigner: Any = build_assigner(train_cfg["assigner"])

    def _init_queries(self, in_channels: Sequence[int], feat_channels: int, out_channels: int,
                      plain: bool, enforce: bool, positional_encoding: nn.Module) -> None:
        """Queries, and what comes between the pixel decoder and the transformer's."""
        project = plain and (enforce or self.decoder_embed_dims != in_channels[-1])
        self.decoder_input_proj = nn.Conv2d(
            in_channels[-1], self.decoder_embed_dims, 1) if project else nn.Identity()
        self.decoder_pe = positional_encoding
        self.query_embed = nn.Embedding(self.num_queries, out_channels)

    def init_weights(self) -> None:
        """The pixel decoder's rule; Xavier's uniform distribution in the transformer."""
        if isinstance(self.decoder_input_proj, nn.Conv2d):
            caffe2_xavier_init(self.decoder_input_proj, bias=0)
        self.pixel_decoder.init_weights()
        for p in self.transformer_decoder.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)

    def forward(self, feats: Sequence[Tensor], img_metas: list[Meta]) -> tuple[Any, Any]:
        """Logits of classes and masks of every decoder layer.

        Args:
            feats: feature maps, the finest first.
            img_metas: ``batch_input_shape`` and ``img_shape`` are read.

        Returns:
            ``[L, B, Q, classes + 1]`` and ``[L, B, Q, h, w]``.
        """
        padding = padding_mask(feats[-1], img_metas)
        pixels, memory = self.pixel_decoder(feats, img_metas)
        memory = self.decoder_input_proj(memory)
        tokens, places = (t.flatten(2).permute(2, 0, 1) for t in (memory, self.decoder_pe(padding)))
        queries = self.query_embed.weight[:, None].expand(-1, len(memory), -1)
        states = self.transformer_decoder(
            query=torch.zeros_like(queries), key=tokens, value=tokens, key_pos=places,
            query_pos=queries, key_padding_mask=padding.flatten(1)).transpose(1, 2)
        return (self.cls_embed(states),
                torch.einsum("lbqc,bchw->lbqhw", self.mask_embed(states), pixels))

    # --- losses -----------------------------------------------------------------------------
    def preprocess_gt(self, gt_labels_list: list[Tensor], gt_masks_list: list[Any],
                      gt_semantic_segs: Sequence[Tensor | None] | None,
                      img_metas: list[Meta]) -> tuple[list[Tensor], list[Tensor]]:
        """Labels [n] and masks [n, H, W] of the things and the stuff of each image."""
        segs = gt_semantic_segs if gt_semantic_segs is not None else [None] * len(gt_labels_list)
        each = [preprocess_panoptic_gt(labels, masks, seg, self.num_things_classes,
                                       self.num_stuff_classes, meta)
                for labels, masks, seg, meta in zip(gt_labels_list, gt_masks_list, segs,
                                                    img_metas)]
        return [labels for labels, _ in each], [masks for _, masks in each]

    def forward_train(self, feats: Sequence[Tensor], img_metas: list[Meta], gt_bboxes: Any,
                      gt_labels: list[Tensor], gt_masks: list[Any],
                      gt_semantic_seg: Sequence[Tensor | None] | None = None,
                      gt_bboxes_ignore: Any = None) -> dict[str, Tensor]:
        """Losses of feature maps.

        Args:
            feats: feature maps, the finest first.
            img_metas: of each image.
            gt_bboxes: not used.
            gt_labels: [G] of each image.
            gt_masks: ``BitmapMasks`` of each image.
            gt_semantic_seg: [1, H, W] of each image, where there is stuff.
            gt_bboxes_ignore: must be ``None``.

        Raises:
            ValueError: there are ignored regions.
        """
        if gt_bboxes_ignore is not None:
            raise ValueError(f"{type(self).__name__}: every prediction is matched or background; "
                             "gt_bboxes_ignore cannot be given")
        scores, masks = self(feats, img_metas)
        labels, gts = self.preprocess_gt(gt_labels, gt_masks, gt_semantic_seg, img_metas)
        return self.loss(scores, masks, labels, gts, img_metas)

    def loss(self, all_cls_scores: Sequence[Tensor], all_mask_preds: Sequence[Tensor],
             gt_labels_list: list[Tensor], gt_masks_list: list[Tensor],
             img_metas: list[Meta]) -> dict[str, Tensor]:
        """Losses of every decoder layer, all of which are matched with one copy to the host.

        Args:
            all_cls_scores: [B, Q, classes + 1] of each layer.
            all_mask_preds: [B, Q, h, w] of each layer.
            gt_labels_list: [n] of each image.
            gt_masks_list: [n, H, W] of each image.
            img_metas: not used.

        Returns:
            ``loss_cls``, ``loss_mask`` and ``loss_dice`` of the last layer, and of the others
            behind ``d0.``, ``d1.`` …
        """
        scores = [at_least_float32(s) for s in all_cls_scores]
        masks = [at_least_float32(m) for m in all_mask_preds]
        with torch.no_grad():
            costs = self.costs(scores, masks, gt_labels_list, gt_masks_list)
            inds = torch.stack(least_cost_matchings(costs)).unflatten(0, (len(scores), -1))
        return DETRHead.named([self.loss_single(*layer, gt_labels_list, gt_masks_list)
                               for layer in zip(scores, masks, inds)])

    def costs(self, scores: list[Tensor], masks: list[Tensor], gt_labels: list[Tensor],
              gt_masks: list[Tensor]) -> list[Tensor]:
        """Costs [Q, n] of each layer's images: L B matrices, the images of a layer in a row."""
        each = []
        for i, (labels, gts) in enumerate(zip(gt_labels, gt_masks)):
            score, mask = torch.cat([s[i] for s in scores]), torch.cat([m[i] for m in masks])
            small = F.interpolate(gts[:, None].to(mask.dtype), size=mask.shape[-2:])[:, 0] if (
                len(gts)) else mask[:0]
            each.append(self.assigner.cost(score, mask, labels, small).chunk(len(scores)))
        return [images[i] for i in range(len(scores)) for images in each]

    def loss_single(self, cls_scores: Tensor, mask_preds: Tensor, gt_inds: Tensor,
                    gt_labels: list[Tensor], gt_masks: list[Tensor]) -> dict[str, Tensor]:
        """Losses of one layer.

        Args:
            cls_scores: [B, Q, classes + 1].
            mask_preds: [B, Q, h, w].
            gt_inds: [B, Q], the gt of a query, counted from 1, or 0.
            gt_labels: [n] of each image.
            gt_masks: [n, H, W] of each image.
        """
        labels, pred, target = [], [], []
        for ind, masks, of_gts, gts in zip(gt_inds, mask_preds, gt_labels, gt_masks):
            none = of_gts.new_full((1,), self.num_classes)
            labels.append(torch.cat([none, of_gts])[ind])
            # As many queries are matched as there are gts, so that no one need wait to count.
            rows = (ind == 0).int().argsort(stable=True)[:min(len(gts), len(ind))]
            pred.append(masks[rows])
            target.append(gts[ind[rows] - 1])
        label = torch.cat(labels)
        weight = cls_scores.new_tensor(self.class_weight)
        of_class = self.loss_cls(cls_scores.flatten(0, 1), label, avg_factor=weight[label].sum())
        mask, wanted = torch.cat(pred), torch.cat(target)
        if len(mask) == 0:
            nothing = mask.sum()
            return {"loss_cls": of_class, "loss_mask": nothing, "loss_dice": nothing}
        total = reduce_mean(mask.new_full((), len(mask))).clamp(min=1)
        return {"loss_cls": of_class, **self.mask_losses(mask, wanted, total)}

    def mask_losses(self, pred: Tensor, target: Tensor, total: Tensor) -> dict[str, Tensor]:
        """Losses of matched masks.

        Args:
            pred: [P, h, w], logits.
            target: [P, H, W], zeros and ones.
            total: how many masks there are, the mean over the processes.
        """
        pred = F.interpolate(pred[:, None], size=target.shape[-2:], mode="bilinear",
                             align_corners=False)[:, 0]
        of_mask = self.loss_dice(pred, target, avg_factor=total)
        # The focal loss knows classes: of the only one, 0 is the object.
        of_pixel = self.loss_mask(pred.reshape(-1, 1), 1 - target.reshape(-1),
                                  avg_factor=total * pred[0].numel())
        return {"loss_mask": of_pixel, "loss_dice": of_mask}

    # --- results ----------------------------------------------------------------------------
    def simple_test(self, feats: Sequence[Tensor], img_metas: list[Meta],
                    **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Logits of the last layer: classes ``[B, Q, classes + 1]`` and masks in the padded input
        ``[B, Q, H, W]``."""
        scores, masks = self(feats, img_metas)
        return scores[-1], F.interpolate(masks[-1], size=img_metas[0]["batch_input_shape"],
                                         mode="bilinear", align_corners=False)
