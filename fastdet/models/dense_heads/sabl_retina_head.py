"""Sides of boxes found in buckets (SABL, arXiv 1912.04260)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.core.anchor import build_prior_generator
from fastdet.core.bbox import GroundTruth, build_assigner, build_bbox_coder
from fastdet.core.utils import multi_apply

from ..builder import HEADS, build_loss
from ..losses.utils import at_least_float32
from .base_dense_head import BaseDenseHead, Meta
from .candidates import Candidates, top_pairs
from .guided_anchor_head import approximations, generator_of_shapes

__all__ = ["SABLRetinaHead"]


@HEADS.register_module()
class SABLRetinaHead(BaseDenseHead):
    """One square for each place: its class, and for each side a bucket and an offset.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        stacked_convs: convolutions of a tower.
        feat_channels: of the towers.
        approx_anchor_generator: config of the anchors by whose overlap a square learns a gt.
        square_anchor_generator: config of the squares.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        bbox_coder: its config.
        reg_decoded_bbox: kept as an attribute, and not used, as in MMDetection.
        train_cfg: ``assigner``, ``allowed_border``, ``pos_weight``.
        test_cfg: ``nms_pre``, ``score_thr``, ``nms``, ``max_per_img``.
        loss_cls: config of the classification loss.
        loss_bbox_cls: config of the loss of buckets.
        loss_bbox_reg: config of the loss of offsets.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: the two generators have other strides.
    """

    def __init__(self, num_classes: int, in_channels: int, stacked_convs: int = 4,
                 feat_channels: int = 256,
                 approx_anchor_generator: dict[str, Any] = dict(
                     type="AnchorGenerator", octave_base_scale=4, scales_per_octave=3,
                     ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32, 64, 128]),
                 square_anchor_generator: dict[str, Any] = dict(
                     type="AnchorGenerator", ratios=[1.0], scales=[4],
                     strides=[8, 16, 32, 64, 128]),
                 conv_cfg: Any = None, norm_cfg: Any = None,
                 bbox_coder: dict[str, Any] = dict(type="BucketingBBoxCoder", num_buckets=14,
                                                   scale_factor=3.0),
                 reg_decoded_bbox: bool = False, train_cfg: Any = None, test_cfg: Any = None,
                 loss_cls: dict[str, Any] = dict(type="FocalLoss", use_sigmoid=True, gamma=2.0,
                                                 alpha=0.25, loss_weight=1.0),
                 loss_bbox_cls: dict[str, Any] = dict(type="CrossEntropyLoss", use_sigmoid=True,
                                                      loss_weight=1.5),
                 loss_bbox_reg: dict[str, Any] = dict(type="SmoothL1Loss", beta=1.0 / 9.0,
                                                      loss_weight=1.5),
                 init_cfg: Any = dict(
                     type="Normal", layer="Conv2d", std=0.01,
                     override=dict(type="Normal", name="retina_cls", std=0.01,
                                   bias_prob=0.01))) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.feat_channels = feat_channels
        self.num_buckets = bbox_coder["num_buckets"]
        self.side_num = math.ceil(self.num_buckets / 2)
        self.prior_generator = build_prior_generator(square_anchor_generator)
        self.square_anchor_generator: Any = self.prior_generator
        self.approx_anchor_generator = generator_of_shapes(
            type(self).__name__, approx_anchor_generator, self.square_anchor_generator)
        self.approxs_per_octave = self.approx_anchor_generator.num_base_priors[0]
        self.num_base_priors = self.square_anchor_generator.num_base_priors[0]
        self.stacked_convs = stacked_convs
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.reg_decoded_bbox = reg_decoded_bbox
        self.use_sigmoid_cls = loss_cls.get("use_sigmoid", False)
        self.sampling = loss_cls["type"] not in ("FocalLoss", "GHMC", "QualityFocalLoss")
        self.cls_out_channels = num_classes if self.use_sigmoid_cls else num_classes + 1
        self.bbox_coder = build_bbox_coder(bbox_coder)
        self.loss_cls = build_loss(loss_cls)
        self.loss_bbox_cls = build_loss(loss_bbox_cls)
        self.loss_bbox_reg = build_loss(loss_bbox_reg)
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        if train_cfg:
            self.assigner: Any = build_assigner(train_cfg["assigner"])
        self.fp16_enabled = False
        self._init_layers()

    def _init_layers(self) -> None:
        self.relu = nn.ReLU(inplace=True)
        self.cls_convs, self.reg_convs = self.tower(), self.tower()
        self.retina_cls, self.retina_bbox_reg, self.retina_bbox_cls = (
            nn.Conv2d(self.feat_channels, n, 3, padding=1)
            for n in (self.num_base_priors * self.cls_out_channels, self.side_num * 4,
                      self.side_num * 4))

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Of each level scores [B, C, H, W], and bucket logits and offsets, a pair [B, 4 S, H, W].
        """
        scores, boxes = multi_apply(self.forward_single, feats)
        return scores, boxes

    def forward_single(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """What :meth:`forward` makes of one level."""
        classes, sides = self.features(x)
        return self.retina_cls(classes), (self.retina_bbox_cls(sides), self.retina_bbox_reg(sides))

    # --- losses -----------------------------------------------------------------------------
    def loss(self, cls_scores: list[Tensor],  # type: ignore[override]
             bbox_preds: list[tuple[Tensor, Tensor]], gt_bboxes: list[Tensor],
             gt_labels: list[Tensor], img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, list[Tensor]]:
        """Losses of each level.

        Args:
            cls_scores: [B, C, H, W] of each level.
            bbox_preds: bucket logits and offsets [B, 4 S, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: of each image.
            gt_bboxes_ignore: [g, 4] of each image.

        Returns:
            ``loss_cls``, ``loss_bbox_cls`` and ``loss_bbox_reg``, lists of scalars.
        """
        sizes = [m.shape[-2:] for m in cls_scores]
        device = cls_scores[0].device
        levels = self.square_anchor_generator.grid_priors(sizes, device=device)
        squares = torch.cat(levels)
        approxs, inside = approximations(self.approx_anchor_generator, sizes, img_metas,
                                         self.train_cfg.get("allowed_border", -1), device)
        gts = GroundTruth.pad(gt_bboxes, gt_labels, gt_bboxes_ignore)
        inds = self.assigner.assign_batch(approxs, squares, self.approxs_per_octave, gts, inside)
        pos, neg = inds > 0, inds == 0
        boxes, labels = gts.of(inds)
        own = squares.to(boxes.dtype).expand_as(boxes)
        offsets, offset_weights, buckets, bucket_weights = (
            torch.where(pos[..., None], t.unflatten(0, inds.shape), 0.0)
            for t in self.bbox_coder.encode(
                own.flatten(0, 1), torch.where(pos[..., None], boxes, own).flatten(0, 1)))
        pos_weight = self.train_cfg.get("pos_weight", -1)
        weights = neg.to(boxes.dtype) + pos.to(boxes.dtype) * (
            pos_weight if pos_weight > 0 else 1.0)
        labels = torch.where(pos, labels, self.num_classes)
        total = pos.sum(1).clamp(min=1).sum()
        if self.sampling:
            total = total + neg.sum(1).clamp(min=1).sum()
        parts = [t.split([len(level) for level in levels], dim=1) for t in (
            labels, weights, buckets, bucket_weights, offsets, offset_weights)]
        each = multi_apply(self.loss_single, cls_scores, bbox_preds, *parts,
                           num_total_samples=total)
        return dict(zip(("loss_cls", "loss_bbox_cls", "loss_bbox_reg"), each))

    def loss_single(self, cls_score: Tensor, bbox_pred: tuple[Tensor, Tensor], labels: Tensor,
                    label_weights: Tensor, bbox_cls_targets: Tensor, bbox_cls_weights: Tensor,
                    bbox_reg_targets: Tensor, bbox_reg_weights: Tensor,
                    num_total_samples: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses of one level.

        Args:
            cls_score: [B, C, H, W].
            bbox_pred: bucket logits and offsets [B, 4 S, H, W].
            labels: [B, n].
            label_weights: [B, n].
            bbox_cls_targets: [B, n, 4 S], one-hot buckets.
            bbox_cls_weights: [B, n, 4 S].
            bbox_reg_targets: [B, n, 4 S], offsets.
            bbox_reg_weights: [B, n, 4 S].
            num_total_samples: what sums are divided by.
        """
        def rows(m: Tensor, channels: int) -> Tensor:
            return at_least_float32(m).permute(0, 2, 3, 1).reshape(-1, channels)

        of_class = self.loss_cls(rows(cls_score, self.cls_out_channels), labels.flatten(),
                                 label_weights.flatten(), avg_factor=num_total_samples)
        sides = self.side_num * 4
        of_bucket = self.loss_bbox_cls(
            rows(bbox_pred[0], sides), bbox_cls_targets.flatten(0, 1).long(),
            bbox_cls_weights.flatten(0, 1), avg_factor=num_total_samples * sides)
        of_offset = self.loss_bbox_reg(
            rows(bbox_pred[1], sides), bbox_reg_targets.flatten(0, 1),
            bbox_reg_weights.flatten(0, 1),
            avg_factor=num_total_samples * 4 * self.bbox_coder.offset_topk)
        return of_class, of_bucket, of_offset

    # --- detections -------------------------------------------------------------------------
    @torch.no_grad()
    def candidates(self, outs: tuple[Any, ...], img_metas: list[Meta], cfg: Any) -> Candidates:
        """The best pairs of square and class of every level; see :class:`BaseDenseHead`."""
        cls_scores, bbox_preds = outs
        squares = self.square_anchor_generator.grid_priors(
            [m.shape[-2:] for m in cls_scores], device=cls_scores[0].device)
        sides = self.side_num * 4
        levels = []
        for logits, pair, square in zip(self.flat(cls_scores, self.cls_out_channels), bbox_preds,
                                        squares):
            if not self.use_sigmoid_cls:
                logits = logits.softmax(-1)[..., :-1]
            scores, labels, rows, valid = top_pairs(
                logits, cfg.get("nms_pre", -1), cfg.get("score_thr", 0.0), self.use_sigmoid_cls)
            buckets, offsets = (t.gather(1, rows[..., None].expand(-1, -1, sides))
                                for t in self.flat(pair, sides))
            each = [self.bbox_coder.decode(square[row], (bucket, offset),
                                           max_shape=meta["img_shape"])
                    for row, bucket, offset, meta in zip(rows, buckets, offsets, img_metas)]
            boxes, sure = (torch.stack(part) for part in zip(*each))
            levels.append((boxes, scores * sure, labels, valid))
        return Candidates(*(torch.cat(part, dim=1) for part in zip(*levels)))
