"""Queries that look only where their masks are (Mask2Former, arXiv 2112.01527)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import caffe2_xavier_init
from fastdet.ops import point_sample

from ..builder import HEADS
from ..utils import get_uncertain_point_coords_with_randomness
from .base_dense_head import Meta
from .maskformer_head import MaskFormerHead

__all__ = ["Mask2FormerHead"]


@HEADS.register_module()
class Mask2FormerHead(MaskFormerHead):
    """Masked attention on several levels by turns; losses on points.

    Args:
        in_channels: of each feature map, the finest first.
        feat_channels: of the pixel decoder and the queries.
        out_channels: of the map that queries are compared with.
        num_things_classes: classes of things, the first ones.
        num_stuff_classes: classes of stuff, behind them.
        num_queries: how many masks are predicted.
        num_transformer_feat_level: how many levels the queries look at.
        pixel_decoder: its config, less the channels.
        enforce_decoder_input_project: project what the queries look at, whatever its channels.
        transformer_decoder: its config.
        positional_encoding: its config.
        loss_cls: config of the classification loss, with ``class_weight``.
        loss_mask: config of the loss of each point.
        loss_dice: config of the loss of each mask.
        train_cfg: ``assigner``, ``num_points``, ``oversample_ratio`` and
            ``importance_sample_ratio``.
        test_cfg: not used; settings of the fusion head.
        init_cfg: how weights are initialised.
        kwargs: not used.

    Raises:
        ValueError: the pixel decoder encodes other than ``num_transformer_feat_level`` levels.
    """

    def __init__(self, in_channels: Sequence[int], feat_channels: int, out_channels: int,
                 num_things_classes: int = 80, num_stuff_classes: int = 53,
                 num_queries: int = 100, num_transformer_feat_level: int = 3,
                 pixel_decoder: Any = None, enforce_decoder_input_project: bool = False,
                 transformer_decoder: Any = None, positional_encoding: Any = None,
                 loss_cls: Any = None, loss_mask: Any = None, loss_dice: Any = None,
                 train_cfg: Any = None, test_cfg: Any = None, init_cfg: Any = None,
                 **kwargs: Any) -> None:
        levels = pixel_decoder["encoder"]["transformerlayers"]["attn_cfgs"]["num_levels"]
        if levels != num_transformer_feat_level:
            raise ValueError(f"{type(self).__name__}: the pixel decoder encodes {levels} levels, "
                             f"num_transformer_feat_level is {num_transformer_feat_level}")
        self.num_transformer_feat_level = num_transformer_feat_level
        self.num_heads = transformer_decoder["transformerlayers"]["attn_cfgs"]["num_heads"]
        super().__init__(
            in_channels, feat_channels, out_channels, num_things_classes, num_stuff_classes,
            num_queries, pixel_decoder, enforce_decoder_input_project, transformer_decoder,
            positional_encoding, loss_cls, loss_mask, loss_dice, train_cfg, test_cfg, init_cfg)
        self.num_transformer_decoder_layers = self.transformer_decoder.num_layers
        if train_cfg:
            self.num_points = train_cfg.get("num_points", 12544)
            self.oversample_ratio = train_cfg.get("oversample_ratio", 3.0)
            self.importance_sample_ratio = train_cfg.get("importance_sample_ratio", 0.75)

    def _init_queries(self, in_channels: Sequence[int], feat_channels: int, out_channels: int,
                      plain: bool, enforce: bool, positional_encoding: nn.Module) -> None:
        levels, dims = self.num_transformer_feat_level, self.decoder_embed_dims
        project = enforce or dims != feat_channels
        self.decoder_input_projs = nn.ModuleList([
            nn.Conv2d(feat_channels, dims, 1) if project else nn.Identity()
            for _ in range(levels)])
        self.decoder_positional_encoding = positional_encoding
        self.query_embed = nn.Embedding(self.num_queries, feat_channels)
        self.query_feat = nn.Embedding(self.num_queries, feat_channels)
        self.level_embed = nn.Embedding(levels, feat_channels)

    def init_weights(self) -> None:
        """The pixel decoder's rule; Xavier's normal distribution in the transformer."""
        for conv in self.decoder_input_projs:
            if isinstance(conv, nn.Conv2d):
                caffe2_xavier_init(conv, bias=0)
        self.pixel_decoder.init_weights()
        for p in self.transformer_decoder.parameters():
            if p.dim() > 1:
                nn.init.xavier_normal_(p)

    def forward_head(self, decoder_out: Tensor, mask_feature: Tensor,
                     attn_mask_target_size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Classes and masks of one layer, and where the next may not look.

        Args:
            decoder_out: [Q, B, C].
            mask_feature: [B, C, h, w].
            attn_mask_target_size: (height, width) of the level that the next layer looks at.

        Returns:
            ``[B, Q, classes + 1]``, ``[B, Q, h, w]`` and ``[B heads, Q, height * width]``, bool,
            true outside the mask; nowhere for a query whose mask is empty.
        """
        states = self.transformer_decoder.post_norm(decoder_out).transpose(0, 1)
        masks = torch.einsum("bqc,bchw->bqhw", self.mask_embed(states), mask_feature)
        small = F.interpolate(masks.detach(), size=tuple(attn_mask_target_size), mode="bilinear",
                              align_corners=False).flatten(2)
        hidden = small.sigmoid() < 0.5
        hidden = hidden & ~hidden.all(-1, keepdim=True)
        hidden = hidden[:, None].expand(-1, self.num_heads, -1, -1).flatten(0, 1)
        return self.cls_embed(states), masks, hidden

    def forward(self, feats: Sequence[Tensor],
                img_metas: list[Meta]) -> tuple[list[Tensor], list[Tensor]]:
        """Logits of classes and masks, of the queries and of every decoder layer.

        Args:
            feats: feature maps, the finest first.
            img_metas: not used.

        Returns:
            Two lists of ``[B, Q, classes + 1]`` and ``[B, Q, h, w]``.
        """
        pixels, memories = self.pixel_decoder(feats)
        tokens, places = [], []
        for memory, project, embed in zip(memories, self.decoder_input_projs,
                                          self.level_embed.weight):
            tokens.append(project(memory).flatten(2).permute(2, 0, 1) + embed)
            whole = memory.new_zeros((len(memory), *memory.shape[-2:]), dtype=torch.bool)
            places.append(self.decoder_positional_encoding(whole).flatten(2).permute(2, 0, 1))
        state, queries = (embed.weight[:, None].expand(-1, len(pixels), -1)
                          for embed in (self.query_feat, self.query_embed))
        sizes = [memory.shape[-2:] for memory in memories]
        score, mask, hidden = self.forward_head(state, pixels, sizes[0])
        scores, masks = [score], [mask]
        for i, layer in enumerate(self.transformer_decoder.layers):
            level = i % len(tokens)
            state = layer(query=state, key=tokens[level], value=tokens[level], query_pos=queries,
                          key_pos=places[level], attn_masks=[hidden, None])
            score, mask, hidden = self.forward_head(state, pixels, sizes[(i + 1) % len(tokens)])
            scores.append(score)
            masks.append(mask)
        return scores, masks

    def costs(self, scores: list[Tensor], masks: list[Tensor], gt_labels: list[Tensor],
              gt_masks: list[Tensor]) -> list[Tensor]:
        """Costs [Q, n] at random points, of each layer's images."""
        out = []
        for of_class, of_mask in zip(scores, masks):
            for score, mask, labels, gts in zip(of_class, of_mask, gt_labels, gt_masks):
                points = torch.rand((1, self.num_points, 2), device=mask.device)
                # All masks of an image are looked at in the same points: as channels of one.
                pred, target = (point_sample(m[None].to(mask.dtype), points.to(mask.dtype))[0]
                                for m in (mask, gts))
                out.append(self.assigner.cost(score, pred, labels, target))
        return out

    def mask_losses(self, pred: Tensor, target: Tensor, total: Tensor) -> dict[str, Tensor]:
        """Losses of matched masks at points, most of which are where they are least sure.

        Args:
            pred: [P, h, w], logits.
            target: [P, H, W], zeros and ones.
            total: how many masks there are, the mean over the processes.
        """
        pred, target = pred[:, None], target[:, None].to(pred.dtype)
        with torch.no_grad():
            points = get_uncertain_point_coords_with_randomness(
                pred, None, self.num_points, self.oversample_ratio,
                self.importance_sample_ratio).to(pred.dtype)
            wanted = point_sample(target, points)[:, 0]
        found = point_sample(pred, points)[:, 0]
        of_mask = self.loss_dice(found, wanted, avg_factor=total)
        of_point = self.loss_mask(found.reshape(-1), wanted.reshape(-1),
                                  avg_factor=total * self.num_points)
        return {"loss_mask": of_point, "loss_dice": of_mask}
