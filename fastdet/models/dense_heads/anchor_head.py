"""Heads on anchors: targets of a whole batch at once, losses per level."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastdet.core.anchor import anchor_inside_flags, build_prior_generator
from fastdet.core.bbox import (
    GroundTruth,
    PseudoSampler,
    build_assigner,
    build_bbox_coder,
    build_sampler,
)
from fastdet.core.bbox.samplers.random_mask import random_masks
from fastdet.core.bbox.samplers.random_sampler import RandomSampler
from fastdet.core.utils import multi_apply, reduce_mean

from ..builder import HEADS, build_loss
from ..losses.utils import at_least_float32
from .base_dense_head import BaseDenseHead, Meta

__all__ = ["AnchorHead", "AnchorTargets", "trained_anchors"]


class AnchorTargets(NamedTuple):
    """What each anchor of a batch learns.

    Attributes:
        labels: [B, N]; ``num_classes`` is background.
        label_weights: [B, N], or [B, N, C] of each class.
        boxes: [B, N, 4], encoded, or boxes where the head's loss is on boxes.
        box_weights: [B, N, 4].
        num_pos: a scalar, positives of all images, at least one of each.
        num_neg: a scalar, negatives likewise.
        gt_inds: [B, N], as the assigner has them.
    """

    labels: Tensor
    label_weights: Tensor
    boxes: Tensor
    box_weights: Tensor
    num_pos: Tensor
    num_neg: Tensor
    gt_inds: Tensor

    def of_levels(self, levels: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """Labels, their weights, boxes and theirs, each of every level of anchors [..., n, 4]."""
        return [part.split([level.shape[-2] for level in levels], dim=1) for part in self[:4]]

    def positives(self) -> Tensor:
        """How many positives the average process has, at least one: what losses divide by."""
        return reduce_mean(at_least_float32(self.num_pos)).clamp(min=1.0)


def trained_anchors(generator: Any, anchors: Tensor, featmap_sizes: Sequence[Sequence[int]],
                    img_metas: list[Meta], border: float) -> Tensor:
    """Which anchors [N, 4] of a generator each image trains, ``[B, N]``.

    Args:
        generator: knows which lie in the padded image.
        anchors: of all levels.
        featmap_sizes: height and width of each level.
        img_metas: of each image.
        border: pixels by which an anchor may leave the image; any if negative.
    """
    return torch.stack([
        anchor_inside_flags(
            anchors, torch.cat(generator.valid_flags(featmap_sizes, meta["pad_shape"],
                                                     anchors.device)),
            meta["img_shape"][:2], border) for meta in img_metas])


@HEADS.register_module()
class AnchorHead(BaseDenseHead):
    """Classifies anchors and regresses their boxes (Faster R-CNN, arXiv 1506.01497, section 3.1).

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        feat_channels: of hidden maps.
        anchor_generator: its config.
        bbox_coder: its config.
        reg_decoded_bbox: the box loss is on boxes in pixels, not on deltas.
        loss_cls: config of the classification loss.
        loss_bbox: config of the box loss.
        train_cfg: ``assigner``, ``sampler``, ``allowed_border``, ``pos_weight``.
        test_cfg: ``nms_pre``, ``score_thr``, ``nms``, ``max_per_img``.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: there are no classes to predict.
    """

    #: Whether the sampler of ``train_cfg`` chooses anchors; else all of them are trained.
    may_sample = True

    def __init__(self, num_classes: int, in_channels: int, feat_channels: int = 256,
                 anchor_generator: dict[str, Any] = dict(
                     type="AnchorGenerator", scales=[8, 16, 32], ratios=[0.5, 1.0, 2.0],
                     strides=[4, 8, 16, 32, 64]),
                 bbox_coder: dict[str, Any] = dict(
                     type="DeltaXYWHBBoxCoder", clip_border=True,
                     target_means=(0.0, 0.0, 0.0, 0.0), target_stds=(1.0, 1.0, 1.0, 1.0)),
                 reg_decoded_bbox: bool = False,
                 loss_cls: dict[str, Any] = dict(type="CrossEntropyLoss", use_sigmoid=True,
                                                 loss_weight=1.0),
                 loss_bbox: dict[str, Any] = dict(type="SmoothL1Loss", beta=1.0 / 9.0,
                                                  loss_weight=1.0),
                 train_cfg: Any = None, test_cfg: Any = None,
                 init_cfg: Any = dict(type="Normal", layer="Conv2d", std=0.01)) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.num_classes = num_classes
        self.feat_channels = feat_channels
        self.use_sigmoid_cls = loss_cls.get("use_sigmoid", False)
        self.cls_out_channels = num_classes if self.use_sigmoid_cls else num_classes + 1
        if self.cls_out_channels <= 0:
            raise ValueError(f"{type(self).__name__}: num_classes={num_classes} leaves nothing to "
                             "classify")
        self.reg_decoded_bbox = reg_decoded_bbox
        self.bbox_coder = build_bbox_coder(bbox_coder)
        self.loss_cls = build_loss(loss_cls)
        self.loss_bbox = build_loss(loss_bbox)
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        if train_cfg:
            self.assigner = build_assigner(train_cfg["assigner"])
            self.sampler = build_sampler(self._sampler_cfg(train_cfg, loss_cls), context=self)
        self.sampling = train_cfg is not None and not isinstance(
            getattr(self, "sampler", None), PseudoSampler)
        self.fp16_enabled = False
        self.prior_generator = build_prior_generator(anchor_generator)
        # The same number of anchors at every cell of every level: one convolution serves all.
        self.num_base_priors = self.prior_generator.num_base_priors[0]
        self._init_layers()

    def _sampler_cfg(self, train_cfg: Any, loss_cls: dict[str, Any]) -> dict[str, Any]:
        pseudo = {"type": "PseudoSampler"}
        cfg = (train_cfg.get("sampler") if self.may_sample else None) or pseudo
        if str(cfg["type"]).rpartition(".")[2] == "PseudoSampler":
            return pseudo
        if loss_cls["type"] in ("FocalLoss", "GHMC", "QualityFocalLoss"):
            warnings.warn(f"{loss_cls['type']} weighs all anchors itself; the sampler "
                          f"{cfg['type']} of train_cfg is not used", stacklevel=4)
            return pseudo
        return dict(cfg)

    def _init_layers(self) -> None:
        self.conv_cls = nn.Conv2d(self.in_channels, self.num_base_priors * self.cls_out_channels,
                                  1)
        self.conv_reg = nn.Conv2d(self.in_channels, self.num_base_priors * 4, 1)

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """Scores [B, A C, H, W] and deltas [B, A 4, H, W] of one level."""
        return self.conv_cls(x), self.conv_reg(x)

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Scores and deltas of every level."""
        return multi_apply(self.forward_single, feats)

    # --- targets ----------------------------------------------------------------------------
    def get_anchors(self, featmap_sizes: Sequence[Sequence[int]], img_metas: list[Meta],
                    device: Any = "cuda") -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """Anchors and their validity, of each image and level."""
        anchors = self.prior_generator.grid_priors(featmap_sizes, device=device)
        flags = [self.prior_generator.valid_flags(featmap_sizes, meta["pad_shape"], device)
                 for meta in img_metas]
        return [anchors for _ in img_metas], flags

    def valid_anchors(self, anchors: Tensor, featmap_sizes: Sequence[Sequence[int]],
                      img_metas: list[Meta]) -> Tensor:
        """Which of the anchors [N, 4] each image trains, ``[B, N]``."""
        return trained_anchors(self.prior_generator, anchors, featmap_sizes, img_metas,
                               self.train_cfg.get("allowed_border", -1))

    def sampled(self, gt_inds: Tensor, sampler: Any = None) -> tuple[Tensor, Tensor]:
        """Positives and negatives ``[B, N]`` of an assignment, by another sampler if one is given.
        """
        sampler = self.sampler if sampler is None else sampler
        if isinstance(sampler, PseudoSampler):
            return gt_inds > 0, gt_inds == 0
        if type(sampler) is not RandomSampler:
            raise ValueError(f"{type(self).__name__} samples anchors with RandomSampler or "
                             f"PseudoSampler, not with {type(sampler).__name__}")
        return random_masks(gt_inds, sampler.num, sampler.pos_fraction, sampler.neg_pos_ub)

    def assigned(self, anchors: Tensor, per_level: Sequence[int], valid: Tensor,
                 gts: GroundTruth) -> Tensor:
        """The gt of each anchor, ``[B, N]``, as :attr:`AssignResult.gt_inds` has it."""
        return self.assigner.assign_batch(anchors, gts, valid)[0]

    def targets(self, anchors: Tensor, per_level: Sequence[int], valid: Tensor,
                gts: GroundTruth) -> AnchorTargets:
        """What each anchor learns.

        Args:
            anchors: [N, 4], of all levels.
            per_level: how many each level has.
            valid: [B, N].
            gts: of the batch.
        """
        return self.learned(anchors, self.assigned(anchors, per_level, valid, gts), gts)

    def learned(self, anchors: Tensor, gt_inds: Tensor, gts: GroundTruth) -> AnchorTargets:
        """What each anchor ([N, 4] or [B, N, 4]) learns of the gt that it is assigned [B, N]."""
        pos, neg = self.sampled(gt_inds)
        boxes, labels = gts.of(gt_inds)
        if not self.reg_decoded_bbox:
            # A prior that is not positive has itself as its target: no logarithm of zero.
            own = anchors.to(boxes.dtype).expand_as(boxes)
            boxes = self.bbox_coder.encode(own.flatten(0, 1), torch.where(
                pos[..., None], boxes, own).flatten(0, 1)).view_as(boxes)
        pos_weight = self.train_cfg.get("pos_weight", -1)
        weights = neg.to(anchors.dtype) + pos.to(anchors.dtype) * (
            pos_weight if pos_weight > 0 else 1.0)
        return AnchorTargets(
            torch.where(pos, labels, self.num_classes), weights,
            torch.where(pos[..., None], boxes, 0.0),
            pos[..., None].to(boxes.dtype).expand_as(boxes),
            pos.sum(1).clamp(min=1).sum(), neg.sum(1).clamp(min=1).sum(), gt_inds)

    def batch_targets(self, maps: Sequence[Tensor], gt_bboxes: list[Tensor],
                      gt_labels: list[Tensor] | None, img_metas: list[Meta],
                      gt_bboxes_ignore: list[Tensor] | None) -> tuple[list[Tensor], AnchorTargets]:
        """Anchors [n, 4] of every level of ``maps``, and what those of all levels learn."""
        sizes = [m.shape[-2:] for m in maps]
        levels = self.prior_generator.grid_priors(sizes, device=maps[0].device)
        anchors = torch.cat(levels)
        return levels, self.targets(
            anchors, [len(level) for level in levels],
            self.valid_anchors(anchors, sizes, img_metas),
            GroundTruth.pad(gt_bboxes, gt_labels, gt_bboxes_ignore))

    # --- losses -----------------------------------------------------------------------------
    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             gt_bboxes: list[Tensor], gt_labels: list[Tensor] | None, img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, list[Tensor]]:
        """Losses of each level.

        Args:
            cls_scores: [B, A C, H, W] of each level.
            bbox_preds: [B, A 4, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image, or ``None``.
            img_metas: of each image.
            gt_bboxes_ignore: [g, 4] of each image.

        Returns:
            ``loss_cls`` and ``loss_bbox``, lists of scalars.
        """
        return self.level_losses(cls_scores, bbox_preds, *self.batch_targets(
            cls_scores, gt_bboxes, gt_labels, img_metas, gt_bboxes_ignore))

    def level_losses(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],
                     levels: Sequence[Tensor], targets: AnchorTargets) -> dict[str, list[Tensor]]:
        """Losses of each level on anchors [n, 4] or [B, n, 4] of each; see :meth:`loss`."""
        total = targets.num_pos + targets.num_neg if self.sampling else targets.num_pos
        total = at_least_float32(total.to(cls_scores[0].dtype))  # once, and not on every level
        of_classes, of_boxes = multi_apply(self.loss_single, cls_scores, bbox_preds, levels,
                                           *targets.of_levels(levels), num_total_samples=total)
        return {"loss_cls": of_classes, "loss_bbox": of_boxes}

    def loss_single(self, cls_score: Tensor, bbox_pred: Tensor, anchors: Tensor, labels: Tensor,
                    label_weights: Tensor, bbox_targets: Tensor, bbox_weights: Tensor,
                    num_total_samples: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of one level.

        Args:
            cls_score: [B, A C, H, W].
            bbox_pred: [B, A 4, H, W].
            anchors: [n, 4] or [B, n, 4].
            labels: [B, n].
            label_weights: [B, n] or [B, n, C].
            bbox_targets: [B, n, 4].
            bbox_weights: [B, n, 4].
            num_total_samples: what sums are divided by.
        """
        total = at_least_float32(num_total_samples.to(cls_score.dtype))
        score = cls_score.permute(0, 2, 3, 1).reshape(-1, self.cls_out_channels)
        of_class = self.loss_cls(score, labels.flatten(), label_weights.flatten(0, 1),
                                 avg_factor=total)
        boxes = bbox_pred.permute(0, 2, 3, 1).reshape(-1, 4)
        if self.reg_decoded_bbox:
            own = anchors.expand(len(cls_score), -1, -1).flatten(0, 1)
            boxes = self.bbox_coder.decode(own, boxes)
        return of_class, self.loss_bbox(boxes, bbox_targets.flatten(0, 1),
                                        bbox_weights.flatten(0, 1), avg_factor=total)
