"""Queries that look at a few places of every level (Deformable DETR, arXiv 2010.04159)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import bias_init_with_prob, constant_init

from ..builder import HEADS
from ..utils.padding import padding_mask
from ..utils.transformer import inverse_sigmoid
from .base_dense_head import Meta
from .detr_head import DETRHead, Predictions

__all__ = ["DeformableDETRHead"]


@HEADS.register_module()
class DeformableDETRHead(DETRHead):
    """Boxes that start from reference points, on the levels of a pyramid.

    Args:
        args: of :class:`DETRHead`.
        with_box_refine: each layer refines the boxes of the one before it.
        as_two_stage: queries come from the encoder's best proposals.
        transformer: its config.
        kwargs: of :class:`DETRHead`.
    """

    has_background = False
    cls_branches: Any
    reg_branches: Any

    def __init__(self, *args: Any, with_box_refine: bool = False, as_two_stage: bool = False,
                 transformer: Any = None, **kwargs: Any) -> None:
        self.with_box_refine = with_box_refine
        self.as_two_stage = as_two_stage
        if as_two_stage:
            transformer = {**transformer, "as_two_stage": True}
        super().__init__(*args, **{**kwargs, "transformer": transformer})

    def _init_layers(self) -> None:
        dims = self.embed_dims
        of_class = nn.Linear(dims, self.cls_out_channels)
        of_box = nn.Sequential(*[layer for _ in range(self.num_reg_fcs)
                                 for layer in (nn.Linear(dims, dims), nn.ReLU())],
                               nn.Linear(dims, 4))
        # One of each for a layer, and one for the encoder's proposals.
        num = self.transformer.decoder.num_layers + self.as_two_stage
        self.cls_branches, self.reg_branches = (
            nn.ModuleList([copy.deepcopy(branch) if self.with_box_refine else branch
                           for _ in range(num)]) for branch in (of_class, of_box))
        if not self.as_two_stage:
            self.query_embedding = nn.Embedding(self.num_query, dims * 2)

    def init_weights(self) -> None:
        """The transformer's rule; scores start at 0.01, boxes at a point's own."""
        self.transformer.init_weights()
        if self.use_sigmoid_cls:
            for branch in self.cls_branches:
                nn.init.constant_(branch.bias, bias_init_with_prob(0.01))
        for branch in self.reg_branches:
            constant_init(branch[-1], 0, bias=0)
        with torch.no_grad():
            self.reg_branches[0][-1].bias[2:] = -2.0
            if self.as_two_stage:
                for branch in self.reg_branches:
                    branch[-1].bias[2:] = 0.0

    def forward(self, mlvl_feats: Sequence[Tensor],  # type: ignore[override]
                img_metas: list[Meta]) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Logits and boxes of every decoder layer, and of the encoder's proposals.

        Args:
            mlvl_feats: feature maps [B, embed_dims, h, w].
            img_metas: ``batch_input_shape`` and ``img_shape`` are read.

        Returns:
            Logits ``[L, B, Q, C]``, boxes ``[L, B, Q, 4]``, centre and size in units of the image;
            with ``as_two_stage`` the proposals' ``[B, N, C]`` and ``[B, N, 4]``, else ``None``
            twice.
        """
        masks = [padding_mask(x, img_metas) for x in mlvl_feats]
        states, first, points, classes, boxes = self.transformer(
            mlvl_feats, masks, None if self.as_two_stage else self.query_embedding.weight,
            [self.positional_encoding(mask) for mask in masks],
            reg_branches=self.reg_branches if self.with_box_refine else None,
            cls_branches=self.cls_branches if self.as_two_stage else None)
        scores, moved = [], []
        for i, state in enumerate(states.transpose(1, 2)):
            at = inverse_sigmoid(first if i == 0 else points[i - 1])
            box = self.reg_branches[i](state)
            box = box + at if at.shape[-1] == 4 else torch.cat(
                [box[..., :2] + at, box[..., 2:]], dim=-1)
            scores.append(self.cls_branches[i](state))
            moved.append(box.sigmoid())
        return (torch.stack(scores), torch.stack(moved), classes,
                None if boxes is None else boxes.sigmoid())

    def loss(self, all_cls_scores: Tensor, all_bbox_preds: Tensor,  # type: ignore[override]
             enc_cls_scores: Tensor | None, enc_bbox_preds: Tensor | None,
             gt_bboxes_list: list[Tensor], gt_labels_list: list[Tensor], img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Losses of every decoder layer and of the encoder's proposals.

        Args:
            all_cls_scores: [L, B, Q, C].
            all_bbox_preds: [L, B, Q, 4].
            enc_cls_scores: [B, N, C], or ``None``.
            enc_bbox_preds: [B, N, 4], or ``None``.
            gt_bboxes_list: [G, 4] of each image.
            gt_labels_list: [G] of each image.
            img_metas: ``img_shape`` is read.
            gt_bboxes_ignore: must be ``None``.

        Returns:
            ``enc_loss_cls``, ``enc_loss_bbox`` and ``enc_loss_iou`` with ``as_two_stage``;
            ``loss_cls``, ``loss_bbox`` and ``loss_iou``; those of earlier layers behind ``d0.`` …
        """
        self._no_ignore(gt_bboxes_ignore)
        preds = [Predictions(all_cls_scores, all_bbox_preds, gt_labels_list)]
        if enc_cls_scores is not None and enc_bbox_preds is not None:
            # A proposal's class is object or not: the first channel.
            objects = [torch.zeros_like(labels) for labels in gt_labels_list]
            preds.append(Predictions(enc_cls_scores[None], enc_bbox_preds[None], objects))
        decoder, *encoder = self.losses(preds, gt_bboxes_list, img_metas)
        return {**{f"enc_{name}": value for layers in encoder
                   for name, value in layers[0].items()}, **self.named(decoder)}

    def last(self, outs: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        """Logits and boxes of the last layer, of what ``forward`` returned."""
        return outs[0][-1], outs[1][-1]
