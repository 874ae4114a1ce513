"""Guided anchoring (arXiv 1901.03278): where objects are, which shape they have, what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.core.anchor import anchor_inside_flags, build_prior_generator
from fastdet.core.bbox import (
    GroundTruth,
    RegionAssigner,
    build_assigner,
    build_bbox_coder,
    build_sampler,
)
from fastdet.core.post_processing import multiclass_nms
from fastdet.core.utils import multi_apply

from ..builder import HEADS, build_loss
from ..losses.utils import at_least_float32
from .anchor_head import AnchorHead, trained_anchors
from .base_dense_head import Meta
from .candidates import Candidates, top_pairs
from .fovea_head import FeatureAlign

__all__ = ["FeatureAdaption", "GuidedAnchorHead"]

#: Anchors may be a million times as wide or narrow as the square that they are made from.
WH_RATIO_CLIP = 1e-6

#: Weight of the cells where no object is, in the loss of the locations.
BACKGROUND_WEIGHT = 0.1

FOCAL = dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0)
SQUARE_CODER = dict(type="DeltaXYWHBBoxCoder", target_means=[0.0, 0.0, 0.0, 0.0],
                    target_stds=[1.0, 1.0, 1.0, 1.0])


def generator_of_shapes(name: str, cfg: dict[str, Any], squares: Any) -> Any:
    """The generator of the anchors that stand for a square's shapes.

    Args:
        name: of the head.
        cfg: its config.
        squares: the generator of the squares.

    Raises:
        ValueError: they have different strides.
    """
    shapes = build_prior_generator(cfg)
    if shapes.strides != squares.strides:
        raise ValueError(f"{name}: the two anchor generators must have the same strides, got "
                         f"{shapes.strides} and {squares.strides}")
    return shapes


def approximations(generator: Any, sizes: Sequence[Any], img_metas: list[Meta], border: float,
                   device: torch.device) -> tuple[Tensor, Tensor]:
    """Anchors [N K, 4] of all levels, the K of a square in a row, and trained squares [B, N].

    A square is trained if any of its anchors lies inside.
    """
    anchors = torch.cat(generator.grid_priors(sizes, device=device))
    inside = trained_anchors(generator, anchors, sizes, img_metas, border)
    return anchors, inside.unflatten(1, (-1, generator.num_base_priors[0])).any(-1)


class FeatureAdaption(FeatureAlign):
    """A deformable convolution whose offsets are made from the anchors' shapes (section 3.4)."""

    shape_channels = 2

    def forward(self, x: Tensor, shape: Tensor) -> Tensor:
        """Features [B, C, H, W] for anchors of the shapes [B, 2, H, W], which get no gradient."""
        return super().forward(x, shape.detach())


@HEADS.register_module()
class GuidedAnchorHead(AnchorHead):
    """Predicts where anchors are and their shapes, and then as AnchorHead from adapted features.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        feat_channels: of hidden maps.
        approx_anchor_generator: config of anchors which stand for all shapes when gts are
            assigned to a cell.
        square_anchor_generator: config of the squares that shapes are predicted from.
        anchor_coder: config of the coder of the shapes.
        bbox_coder: config of the coder of the boxes.
        reg_decoded_bbox: the box loss is on boxes in pixels, not on deltas.
        deform_groups: of the adaption of features.
        loc_filter_thr: in the test, cells whose probability is below it predict nothing.
        train_cfg: of :class:`AnchorHead`, and ``ga_assigner``, ``ga_sampler``, ``center_ratio``,
            ``ignore_ratio``.
        test_cfg: of :class:`AnchorHead`.
        loss_loc: config of the loss of the locations.
        loss_shape: config of the loss of the shapes.
        loss_cls: config of the classification loss.
        loss_bbox: config of the box loss.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: the two anchor generators have different strides.
    """

    def __init__(self, num_classes: int, in_channels: int, feat_channels: int = 256,
                 approx_anchor_generator: dict[str, Any] = dict(
                     type="AnchorGenerator", octave_base_scale=8, scales_per_octave=3,
                     ratios=[0.5, 1.0, 2.0], strides=[4, 8, 16, 32, 64]),
                 square_anchor_generator: dict[str, Any] = dict(
                     type="AnchorGenerator", ratios=[1.0], scales=[8],
                     strides=[4, 8, 16, 32, 64]),
                 anchor_coder: dict[str, Any] = SQUARE_CODER,
                 bbox_coder: dict[str, Any] = SQUARE_CODER, reg_decoded_bbox: bool = False,
                 deform_groups: int = 4, loc_filter_thr: float = 0.01, train_cfg: Any = None,
                 test_cfg: Any = None, loss_loc: dict[str, Any] = FOCAL,
                 loss_shape: dict[str, Any] = dict(type="BoundedIoULoss", beta=0.2,
                                                   loss_weight=1.0),
                 loss_cls: dict[str, Any] = dict(type="CrossEntropyLoss", use_sigmoid=True,
                                                 loss_weight=1.0),
                 loss_bbox: dict[str, Any] = dict(type="SmoothL1Loss", beta=1.0,
                                                  loss_weight=1.0),
                 init_cfg: Any = dict(
                     type="Normal", layer="Conv2d", std=0.01,
                     override=dict(type="Normal", name="conv_loc", std=0.01, bias_prob=0.01))
                 ) -> None:
        self.deform_groups = deform_groups
        self.loc_filter_thr = loc_filter_thr
        super().__init__(num_classes, in_channels, feat_channels, square_anchor_generator,
                         bbox_coder, reg_decoded_bbox, loss_cls, loss_bbox, train_cfg, test_cfg,
                         init_cfg)
        self.square_anchor_generator: Any = self.prior_generator
        self.approx_anchor_generator = generator_of_shapes(
            type(self).__name__, approx_anchor_generator, self.square_anchor_generator)
        self.approxs_per_octave = self.approx_anchor_generator.num_base_priors[0]
        self.sampling = loss_cls["type"] != "FocalLoss"
        self.ga_sampling = bool(train_cfg) and "ga_sampler" in train_cfg
        self.anchor_coder = build_bbox_coder(anchor_coder)
        self.loss_loc = build_loss(loss_loc)
        self.loss_shape = build_loss(loss_shape)
        if train_cfg:
            self.ga_assigner = build_assigner(train_cfg["ga_assigner"])
            self.ga_sampler = build_sampler(
                train_cfg["ga_sampler"] if self.ga_sampling else {"type": "PseudoSampler"},
                context=self)

    def _init_layers(self) -> None:
        self.relu = nn.ReLU(inplace=True)
        self.conv_loc = nn.Conv2d(self.in_channels, 1, 1)
        self.conv_shape = nn.Conv2d(self.in_channels, self.num_base_priors * 2, 1)
        self.feature_adaption = FeatureAdaption(
            self.in_channels, self.feat_channels, deform_groups=self.deform_groups)
        self.conv_cls = nn.Conv2d(self.feat_channels,
                                  self.num_base_priors * self.cls_out_channels, 1)
        self.conv_reg = nn.Conv2d(self.feat_channels, self.num_base_priors * 4, 1)

    def located(self, loc_pred: Tensor) -> Tensor:
        """Cells [B, 1, H, W] that predict something: in the test, where objects may be."""
        if self.training:
            return torch.ones_like(loc_pred, dtype=torch.bool)
        return loc_pred.sigmoid() >= self.loc_filter_thr

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """Of one level scores [B, C, H, W], deltas [B, 4, H, W], shapes [B, 2, H, W] and locations
        [B, 1, H, W]; in the test, the first two are zero where no object is expected."""
        loc, shape = self.conv_loc(x), self.conv_shape(x)
        x = self.feature_adaption(x, shape)
        return *self.masked(loc, self.conv_cls(x), self.conv_reg(x)), shape, loc

    def masked(self, loc_pred: Tensor, *outs: Tensor) -> tuple[Tensor, ...]:
        """Outputs [B, C, H, W], in the test zero at cells which are filtered out.

        A convolution of the chosen cells alone (``MaskedConv2d``) would need their number on the
        host, and takes one image.
        """
        if self.training:
            return outs
        return tuple(torch.where(self.located(loc_pred), out, 0.0) for out in outs)

    def guided(self, squares: Sequence[Tensor], shape_preds: Sequence[Tensor]) -> list[Tensor]:
        """Anchors [B, n, 4] of each level, from squares [n, 4] and maps of shapes, no gradient."""
        return [self.shaped(own, pred) for own, pred in zip(squares, self.flat(shape_preds, 2))]

    def shaped(self, squares: Tensor, pred: Tensor) -> Tensor:
        """Anchors [B, n, 4] of squares [n, 4] and shapes [B, n, 2]."""
        return self.anchor_coder.decode(
            squares.expand(len(pred), -1, -1), torch.cat([torch.zeros_like(pred), pred], dim=-1),
            wh_ratio_clip=WH_RATIO_CLIP)

    # --- targets ----------------------------------------------------------------------------
    def ga_loc_targets(self, gt_bboxes_list: list[Tensor] | GroundTruth,
                       featmap_sizes: Sequence[Any]) -> tuple[list[Tensor], list[Tensor], float]:
        """Where anchors are wanted (section 3.5): in the middle of objects, on their level.

        Args:
            gt_bboxes_list: [G, 4] of each image.
            featmap_sizes: (height, width) of each level.

        Returns:
            Of each level targets and weights [B, 1, H, W], and what the loss is divided by. The
            weight is 1 in the middle, 0 around it on this level and the next ones, and
            :data:`BACKGROUND_WEIGHT` elsewhere.
        """
        gts = GroundTruth.pad(gt_bboxes_list)
        squares = self.square_anchor_generator.grid_priors(featmap_sizes, device=gts.boxes.device)
        inside = torch.ones(len(gts.boxes), sum(len(s) for s in squares), dtype=torch.bool,
                            device=gts.boxes.device)
        found = RegionAssigner(
            self.train_cfg["center_ratio"], self.train_cfg["ignore_ratio"]).assign_levels(
                [s[None] for s in squares], inside, gts, featmap_sizes,
                self.approx_anchor_generator.octave_base_scale,
                self.approx_anchor_generator.strides, nearby=True)
        weights = torch.where(found == 0, BACKGROUND_WEIGHT, (found > 0).to(gts.boxes.dtype))
        targets = (found > 0).to(gts.boxes.dtype)
        of_levels = [[part.unflatten(1, (1, *size)) for part, size in zip(
            maps.split([len(s) for s in squares], dim=1), featmap_sizes)]
            for maps in (targets, weights)]
        return of_levels[0], of_levels[1], found.numel() / 200

    def shape_targets(self, levels: Sequence[Tensor], inside: Tensor, approxs: Tensor,
                      gts: GroundTruth) -> tuple[Tensor, Tensor, Tensor]:
        """Which squares learn a shape, and from which gt (section 3.5).

        Args:
            levels: squares [n, 4] of each level.
            inside: [B, N], which squares are trained.
            approxs: [N K, 4], the anchors that stand for each square's shapes, in a row.
            gts: of the batch; regions to ignore have no effect.

        Returns:
            Whether each does ``[B, N]``, boxes ``[B, N, 4]``, itself where it does not, and the
            number of samples.
        """
        squares = torch.cat(list(levels))
        inds = self.ga_assigner.assign_batch(
            approxs, squares, self.approxs_per_octave,
            replace(gts, ignore=None, ignore_counts=None), inside)
        pos, neg = self.sampled(inds, self.ga_sampler)
        total = pos.sum(1).clamp(min=1).sum()
        if self.ga_sampling:
            total = total + neg.sum(1).clamp(min=1).sum()
        return pos, torch.where(pos[..., None], gts.of(inds)[0], squares), total

    def inside(self, anchors: Tensor, img_metas: list[Meta], valid: Tensor) -> Tensor:
        """Which of the anchors [B, N, 4] whose squares are ``valid`` [B, N] are trained."""
        border = self.train_cfg.get("allowed_border", -1)
        return torch.stack([anchor_inside_flags(own, flags, meta["img_shape"][:2], border)
                            for own, flags, meta in zip(anchors, valid, img_metas)])

    # --- losses -----------------------------------------------------------------------------
    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             shape_preds: list[Tensor], loc_preds: list[Tensor], gt_bboxes: list[Tensor],
             gt_labels: list[Tensor] | None, img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, list[Tensor]]:
        """Losses of each level.

        Args:
            cls_scores: [B, C, H, W] of each level.
            bbox_preds: [B, 4, H, W] of each level.
            shape_preds: [B, 2, H, W] of each level.
            loc_preds: [B, 1, H, W] of each level, logits.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image, or ``None``.
            img_metas: of each image.
            gt_bboxes_ignore: [g, 4] of each image.

        Returns:
            ``loss_cls``, ``loss_bbox``, ``loss_shape`` and ``loss_loc``, lists of scalars.
        """
        sizes, device = [m.shape[-2:] for m in cls_scores], cls_scores[0].device
        gts = GroundTruth.pad(gt_bboxes, gt_labels, gt_bboxes_ignore)
        squares = self.square_anchor_generator.grid_priors(sizes, device=device)
        per_level = [len(level) for level in squares]
        approxs, valid = approximations(self.approx_anchor_generator, sizes, img_metas,
                                        self.train_cfg.get("allowed_border", -1), device)

        # Of one class, which is number 0: as in MMDetection, a one makes the logit fall.
        where, weights, of_cells = self.ga_loc_targets(gts, sizes)
        loss_loc = [self.loss_loc(pred.reshape(-1, 1), target.flatten().long(), weight.flatten(),
                                  avg_factor=of_cells)
                    for pred, target, weight in zip(loc_preds, where, weights)]
        pos, wanted, of_shapes = self.shape_targets(squares, valid, approxs, gts)
        loss_shape, = multi_apply(
            self.loss_shape_single, shape_preds, squares, wanted.split(per_level, dim=1),
            pos.split(per_level, dim=1), anchor_total_num=of_shapes)

        anchors = self.guided(squares, shape_preds)
        flat = torch.cat(anchors, dim=1)
        targets = self.targets(flat, per_level, self.inside(flat, img_metas, valid), gts)
        return {**self.level_losses(cls_scores, bbox_preds, anchors, targets),
                "loss_shape": loss_shape, "loss_loc": loss_loc}

    def loss_shape_single(self, shape_pred: Tensor, squares: Tensor, boxes: Tensor, pos: Tensor,
                          anchor_total_num: Tensor) -> tuple[Tensor]:
        """The loss of one level's shapes.

        Args:
            shape_pred: [B, 2, H, W].
            squares: [n, 4].
            boxes: [B, n, 4], what is wanted.
            pos: [B, n], where it is.
            anchor_total_num: what the sum is divided by.
        """
        pred = at_least_float32(shape_pred).permute(0, 2, 3, 1).reshape(*pos.shape, 2)
        anchors = self.shaped(squares, torch.where(pos[..., None], pred, 0.0))
        weight = pos[..., None].to(anchors.dtype).expand_as(anchors)
        return self.loss_shape(anchors.flatten(0, 1), boxes.flatten(0, 1), weight.flatten(0, 1),
                               avg_factor=anchor_total_num),

    # --- detections -------------------------------------------------------------------------
    def best(self, outs: tuple[Any, ...], img_metas: list[Meta],
             cfg: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The best ``nms_pre`` cells of each level.

        Args:
            outs: what :meth:`forward` returned.
            img_metas: ``img_shape`` of each image is read.
            cfg: ``nms_pre``.

        Returns:
            Boxes ``[B, K, 4]`` in pixels of the input, scores ``[B, K, C]``, and whether a cell is
            not filtered out ``[B, K]``.
        """
        cls_scores, bbox_preds, shape_preds, loc_preds = outs
        squares = self.square_anchor_generator.grid_priors(
            [m.shape[-2:] for m in cls_scores], device=cls_scores[0].device)
        shapes, pre = [meta["img_shape"] for meta in img_metas], cfg.get("nms_pre", -1)
        levels = []
        for logits, deltas, anchors, loc in zip(
                self.flat(cls_scores, self.cls_out_channels), self.flat(bbox_preds, 4),
                self.guided(squares, shape_preds), loc_preds):
            scores = (logits.sigmoid() if self.use_sigmoid_cls else logits.softmax(-1)[..., :-1])
            there = self.located(loc.detach()).flatten(1)
            num = scores.shape[1]
            rows = scores.amax(-1).masked_fill(~there, -1.0).topk(
                min(pre, num) if pre > 0 else num, dim=1).indices
            scores, deltas, anchors = (
                m.gather(1, rows[..., None].expand(-1, -1, m.shape[-1]))
                for m in (scores, deltas, anchors))
            boxes = self.bbox_coder.decode(anchors, deltas, max_shape=shapes)
            levels.append((boxes, scores, there.gather(1, rows)))
        return levels

    @torch.no_grad()
    def candidates(self, outs: tuple[Any, ...], img_metas: list[Meta], cfg: Any,
                   max_pairs: int = 4096) -> Candidates:
        """The best ``max_pairs`` pairs of cell and class, from the best cells of every level."""
        boxes, scores, there = (torch.cat(part, dim=1)
                                for part in zip(*self.best(outs, img_metas, cfg)))
        scores, labels, rows, valid = top_pairs(
            scores.masked_fill(~there[..., None], -1.0), max_pairs, cfg.get("score_thr", 0.0),
            use_sigmoid=False)
        return Candidates(boxes.gather(1, rows[..., None].expand(-1, -1, 4)), scores, labels, valid)

    @torch.no_grad()
    def get_bboxes(self, *outs: Any, img_metas: list[Meta], cfg: Any = None,
                   rescale: bool = False, with_nms: bool = True) -> list[tuple[Tensor, ...]]:
        """As :meth:`BaseDenseHead.get_bboxes`, of every pair above the threshold."""
        cfg = self.test_cfg if cfg is None else cfg
        boxes, scores, there = (torch.cat(part, dim=1)
                                for part in zip(*self.best(outs, img_metas, cfg)))
        if rescale:
            factors = torch.stack([boxes.new_tensor(m["scale_factor"]) for m in img_metas])
            boxes = boxes / factors[:, None]
        scores = scores.masked_fill(~there[..., None], -1.0)
        if not with_nms:
            pairs = [(score > cfg["score_thr"]).nonzero(as_tuple=True) for score in scores]
            return [(box[row], score[row, label], label)
                    for box, score, (row, label) in zip(boxes, scores, pairs)]
        background = torch.zeros_like(scores[..., :1])
        return [multiclass_nms(box, score, cfg["score_thr"], cfg["nms"], cfg["max_per_img"])
                for box, score in zip(boxes, torch.cat([scores, background], dim=-1))]
