"""PAA's head (arXiv 2007.08103): positives are the likelier of two gaussians of the losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastdet.core.bbox.iou_calculators import bbox_overlaps
from fastdet.core.bbox.two_gaussians import two_gaussians
from fastdet.core.post_processing import multiclass_nms

from ..builder import HEADS
from .anchor_head import AnchorHead, AnchorTargets
from .atss_head import ATSSHead
from .base_dense_head import Meta
from .candidates import Detections

__all__ = ["PAAHead", "Reassigned"]

EPS = 1e-12


class Reassigned(NamedTuple):
    """Who is positive after all.

    Attributes:
        labels: [B, N]; ``num_classes`` is background.
        label_weights: [B, N].
        num_pos: positives of all images.
    """

    labels: Tensor
    label_weights: Tensor
    num_pos: int


@HEADS.register_module()
class PAAHead(ATSSHead):
    """Classes, boxes and the IoU that a box will have.

    Args:
        args: of :class:`ATSSHead`.
        topk: candidates of a gt on each level.
        score_voting: boxes that overlap a detection are averaged into it.
        covariance_type: of the mixture, ``'full'``, ``'tied'``, ``'diag'`` or ``'spherical'``; on
            a line all but ``'tied'`` are the same.
        kwargs: of :class:`ATSSHead`.

    Raises:
        ValueError: ``covariance_type`` is unknown.
    """

    def __init__(self, *args: Any, topk: int = 9, score_voting: bool = True,
                 covariance_type: str = "diag", **kwargs: Any) -> None:
        if covariance_type not in ("full", "tied", "diag", "spherical"):
            raise ValueError("PAAHead: covariance_type must be full, tied, diag or spherical, got "
                             f"{covariance_type!r}")
        self.topk = topk
        self.with_score_voting = score_voting
        self.covariance_type = covariance_type
        super().__init__(*args, **kwargs)

    def assigned(self, anchors: Tensor, per_level: Sequence[int], valid: Tensor,
                 gts: Any) -> Tensor:
        return AnchorHead.assigned(self, anchors, per_level, valid, gts)

    # --- training ---------------------------------------------------------------------------
    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             iou_preds: list[Tensor], gt_bboxes: list[Tensor], gt_labels: list[Tensor] | None,
             img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Losses of all levels together.

        Args:
            cls_scores: [B, A C, H, W] of each level.
            bbox_preds: [B, A 4, H, W] of each level.
            iou_preds: [B, A, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: of each image.
            gt_bboxes_ignore: [g, 4] of each image.

        Returns:
            ``loss_cls``, ``loss_bbox`` and ``loss_iou``, scalars.
        """
        levels, targets = self.batch_targets(cls_scores, gt_bboxes, gt_labels, img_metas,
                                             gt_bboxes_ignore)
        return self.losses(levels, targets, cls_scores, bbox_preds, iou_preds,
                           self.reassign(levels, targets, cls_scores, bbox_preds))

    def losses(self, levels: list[Tensor], targets: AnchorTargets, cls_scores: list[Tensor],
               bbox_preds: list[Tensor], iou_preds: list[Tensor],
               chosen: Reassigned) -> dict[str, Tensor]:
        """Losses of all levels, of who was chosen."""
        labels = chosen.labels.flatten()
        pos = (labels >= 0) & (labels < self.num_classes)
        of_class = self.loss_cls(
            self.flattened(cls_scores, self.cls_out_channels), labels,
            chosen.label_weights.flatten(), avg_factor=max(chosen.num_pos, len(chosen.labels)))
        # What is not positive predicts and learns its own anchor: finite, of no weight.
        own = torch.cat(levels).repeat(len(chosen.labels), 1)
        pred = self.bbox_coder.decode(
            own, torch.where(pos[:, None], self.flattened(bbox_preds, 4), 0.0))
        learn = torch.where(pos[:, None], targets.boxes.flatten(0, 1).to(pred.dtype), own)
        iou = bbox_overlaps(pred.detach(), learn, is_aligned=True)
        of_box = self.box_loss(pred, learn, iou, pos, chosen.num_pos)
        of_iou = self.loss_centerness(self.flattened(iou_preds, 1)[:, 0], iou, pos.to(iou.dtype),
                                      avg_factor=max(chosen.num_pos, 1))
        return {"loss_cls": of_class, "loss_bbox": of_box, "loss_iou": of_iou}

    def box_loss(self, pred: Tensor, learn: Tensor, iou: Tensor, pos: Tensor,
                 num_pos: int) -> Tensor:
        """The loss of the positives' boxes, weighed by their IoU."""
        return self.loss_bbox(pred, learn, iou.clamp(min=EPS) * pos,
                              avg_factor=torch.where(pos, iou, 0.0).sum())

    @torch.no_grad()
    def reassign(self, levels: list[Tensor], targets: AnchorTargets, cls_scores: list[Tensor],
                 bbox_preds: list[Tensor]) -> Reassigned:
        """Of each gt's best candidates, those that the first gaussian explains (algorithm 1).

        Args:
            levels: anchors [n, 4] of each level.
            targets: with every anchor near a gt as a positive.
            cls_scores: [B, A C, H, W] of each level.
            bbox_preds: [B, A 4, H, W] of each level.
        """
        sizes = [len(level) for level in levels]
        loss = self.anchor_loss(torch.cat(levels), targets, self.flattened(
            cls_scores, self.cls_out_channels), self.flattened(bbox_preds, 4))
        pos = targets.gt_inds > 0
        g = int(targets.gt_inds.max()) if pos.numel() else 0  # one of two copies to the host
        if g <= 0:
            return Reassigned(targets.labels, targets.label_weights, 0)
        nth = torch.arange(1, g + 1, device=loss.device)
        mine = torch.where(targets.gt_inds[:, None] == nth[:, None], loss[:, None], torch.inf)
        start, values, rows = 0, [], []
        for level in mine.split(sizes, dim=2):
            best, at = level.topk(min(self.topk, level.shape[2]), dim=2, largest=False)
            values.append(best)
            rows.append(at + start)
            start += level.shape[2]
        value, order = torch.cat(values, dim=2).sort(dim=2)  # [B, G, K]
        row = torch.cat(rows, dim=2).gather(2, order)
        kept = self.separate(value.flatten(0, 1).double().cpu().numpy())
        chosen = torch.from_numpy(kept).to(row.device).view_as(row)
        stays = torch.zeros_like(pos, dtype=torch.int32).scatter_add_(
            1, row.flatten(1), chosen.flatten(1).int()) > 0
        return Reassigned(torch.where(pos & ~stays, self.num_classes, targets.labels),
                          targets.label_weights, int(kept.sum()))

    def anchor_loss(self, anchors: Tensor, targets: AnchorTargets, score: Tensor,
                    pred: Tensor) -> Tensor:
        """The loss of each anchor, ``[B, N]``.

        Args:
            anchors: [N, 4].
            targets: of the batch.
            score: [B N, C].
            pred: [B N, 4].
        """
        b = len(targets.labels)
        of_class = self.loss_cls(score, targets.labels.flatten(), targets.label_weights.flatten(),
                                 reduction_override="none").sum(-1)
        boxes = self.bbox_coder.decode(anchors.repeat(b, 1), pred)
        of_box = self.loss_bbox(boxes, targets.boxes.flatten(0, 1).to(boxes.dtype),
                                targets.box_weights.flatten(0, 1).to(boxes.dtype),
                                reduction_override="none")
        return (of_class + of_box).view(b, -1)

    def separate(self, losses: np.ndarray) -> np.ndarray:
        """Which candidates of each gt stay.

        Args:
            losses: [M, K], ascending, infinite behind a gt's own.

        Returns:
            [M, K]: of the first gaussian's up to the likeliest; none of fewer than two.
        """
        counts = np.isfinite(losses).sum(1)
        rows = np.flatnonzero(counts >= 2)
        kept = np.zeros(losses.shape, dtype=bool)
        if len(rows):
            first, score = two_gaussians(losses[rows], counts[rows],
                                         tied=self.covariance_type == "tied")
            place = np.arange(losses.shape[1])
            first = first & (place < counts[rows, None])
            best = np.where(first, score, -np.inf).argmax(1)
            kept[rows] = first & (place <= best[:, None])
        return kept

    # --- detections -------------------------------------------------------------------------
    @torch.no_grad()
    def get_bboxes(self, *outs: Any, img_metas: list[Meta], cfg: Any = None,
                   rescale: bool = False, with_nms: bool = True) -> list[tuple[Tensor, ...]]:
        """As :meth:`BaseDenseHead.get_bboxes`; the score is the root of class times IoU.

        Raises:
            ValueError: ``with_nms`` is false: there is no test-time augmentation.
        """
        if not with_nms:
            raise ValueError(f"{type(self).__name__} has no test-time augmentation, got "
                             "with_nms=False")
        cfg = self.test_cfg if cfg is None else cfg
        sizes = [m.shape[-2:] for m in outs[0]]
        priors = self.prior_generator.grid_priors(sizes, dtype=outs[0][0].dtype,
                                                  device=outs[0][0].device)
        shapes = [meta["img_shape"] for meta in img_metas]
        levels = []
        for i, (score, deltas, iou, mine) in enumerate(zip(
                self.flat(outs[0], self.cls_out_channels), self.flat(outs[1], 4),
                self.flat(outs[2], 1), priors)):
            both = (score.sigmoid() * iou.sigmoid()).sqrt()
            pre = cfg.get("nms_pre", -1)
            rows = both.amax(2).topk(min(pre, len(mine)) if pre > 0 else len(mine), dim=1).indices
            at = rows[..., None]
            levels.append((self.decoded(mine[rows], deltas.gather(1, at.expand(-1, -1, 4)), i,
                                        shapes),
                           both.gather(1, at.expand(-1, -1, both.shape[2]))))
        found: list[tuple[Tensor, ...]] = []
        for boxes, scores, meta in zip(*(torch.cat(part, dim=1) for part in zip(*levels)),
                                       img_metas):
            if rescale:
                boxes = boxes / boxes.new_tensor(meta["scale_factor"])
            dets, labels = multiclass_nms(
                boxes, torch.cat([scores, torch.zeros_like(scores[:, :1])], dim=1),
                cfg["score_thr"], cfg["nms"], cfg["max_per_img"])
            if self.with_score_voting and len(dets):
                dets, labels = self.score_voting(dets, labels, boxes, scores, cfg["score_thr"])
            found.append((dets, labels))
        return found

    def detect(self, outs: tuple[Any, ...], img_metas: list[Meta], cfg: Any = None,
               rescale: bool = False) -> Detections:
        """As :meth:`BaseDenseHead.detect`, but from each image's own: with host syncs."""
        each = self.get_bboxes(*outs, img_metas=img_metas, cfg=cfg, rescale=rescale)
        width = max(len(labels) for _, labels in each)
        boxes = each[0][0].new_zeros((len(each), width, 5))
        labels = each[0][1].new_full((len(each), width), -1)
        for i, (dets, classes) in enumerate(each):
            boxes[i, :len(dets)], labels[i, :len(dets)] = dets, classes
        return Detections(boxes, labels, labels.new_tensor([len(c) for _, c in each]))

    def score_voting(self, det_bboxes: Tensor, det_labels: Tensor, mlvl_bboxes: Tensor,
                     mlvl_nms_scores: Tensor, score_thr: float) -> tuple[Tensor, Tensor]:
        """Detections moved to the mean of the boxes of their class that overlap them (eq. 9).

        Args:
            det_bboxes: [D, 5].
            det_labels: [D].
            mlvl_bboxes: [N, 4], candidates.
            mlvl_nms_scores: [N, C].
            score_thr: candidates must be above it.

        Returns:
            Boxes and scores ``[D, 5]`` and classes ``[D]``, class by class.
        """
        order = det_labels.argsort(stable=True)
        det_bboxes, det_labels = det_bboxes[order], det_labels[order]
        score = mlvl_nms_scores.T[det_labels]
        iou = bbox_overlaps(det_bboxes[:, :4], mlvl_bboxes)
        vote = torch.exp(-(1 - iou) ** 2 / 0.025) * score
        vote = torch.where((iou > 0.01) & (score > score_thr), vote, 0.0)
        moved = vote @ mlvl_bboxes / vote.sum(1, keepdim=True)
        return torch.cat([moved, det_bboxes[:, 4:]], dim=1), det_labels
