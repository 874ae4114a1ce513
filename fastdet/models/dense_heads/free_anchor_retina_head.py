"""FreeAnchor (arXiv 1909.02466): which anchors learn a gt is itself learnt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdet.core.bbox import GroundTruth
from fastdet.core.bbox.iou_calculators import bbox_overlaps

from ..builder import HEADS
from ..losses.utils import at_least_float32, cross_entropy_of_probabilities
from .base_dense_head import Meta
from .retina_head import RetinaHead

__all__ = ["FreeAnchorRetinaHead"]

EPS = 1e-12


@HEADS.register_module()
class FreeAnchorRetinaHead(RetinaHead):
    """RetinaNet's head, whose positives are bags of anchors.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        stacked_convs: convolutions of a tower.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        pre_anchor_topk: anchors in the bag of a gt.
        bbox_thr: the IoU from which on a box may be the gt's.
        gamma: exponent of the focus on hard negatives.
        alpha: weight of the positives, against 1 - alpha of the negatives.
        kwargs: of :class:`RetinaHead`.
    """

    def __init__(self, num_classes: int, in_channels: int, stacked_convs: int = 4,
                 conv_cfg: Any = None, norm_cfg: Any = None, pre_anchor_topk: int = 50,
                 bbox_thr: float = 0.6, gamma: float = 2.0, alpha: float = 0.5,
                 **kwargs: Any) -> None:
        super().__init__(num_classes, in_channels, stacked_convs, conv_cfg, norm_cfg, **kwargs)
        self.pre_anchor_topk = pre_anchor_topk
        self.bbox_thr = bbox_thr
        self.gamma = gamma
        self.alpha = alpha

    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             gt_bboxes: list[Tensor], gt_labels: list[Tensor], img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Any]:
        """Losses of all levels together.

        Args:
            cls_scores: [B, A C, H, W] of each level.
            bbox_preds: [B, A 4, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: not used.
            gt_bboxes_ignore: not used.

        Returns:
            ``positive_bag_loss`` and ``negative_bag_loss``, scalars (eq. 9).
        """
        anchors = torch.cat(self.prior_generator.grid_priors(
            [m.shape[-2:] for m in cls_scores], device=cls_scores[0].device))
        gts = GroundTruth.pad(gt_bboxes, gt_labels)
        b, g = gts.labels.shape
        score = self.flattened(cls_scores, self.cls_out_channels).sigmoid().unflatten(0, (b, -1))
        deltas = self.flattened(bbox_preds, 4).unflatten(0, (b, -1))
        num_gts = at_least_float32(gts.counts.sum().to(score.dtype))
        negative = self.negative_bag_loss(score, self.object_prob(anchors, deltas, gts)).sum() / (
            num_gts * self.pre_anchor_topk).clamp(min=1)
        if g == 0:  # the box tower gets a gradient, of zero
            return {"positive_bag_loss": deltas.sum() * 0, "negative_bag_loss": negative}
        boxes = gts.boxes.to(anchors.dtype)
        bags = bbox_overlaps(boxes, anchors.expand(b, -1, -1)).topk(
            self.pre_anchor_topk, dim=2, sorted=False).indices  # [B, G, K]
        of_class = score.flatten(1).gather(
            1, (bags * self.cls_out_channels + gts.labels[..., None]).flatten(1)).view_as(bags)
        there = torch.arange(g, device=anchors.device) < gts.counts[:, None]
        mine = anchors[bags]
        # A gt that pads the batch is learnt as the anchors themselves: no logarithm of zero.
        learn = torch.where(there[..., None, None], boxes[:, :, None], mine)
        learn = self.bbox_coder.encode(mine.view(-1, 4), learn.view(-1, 4))
        pred = deltas.gather(1, bags.flatten(1)[..., None].expand(-1, -1, 4)).view(-1, 4)
        of_box = self.loss_bbox(pred, learn, reduction_override="none").sum(-1)
        positive = self.positive_bag_loss(of_class.flatten(0, 1),
                                          torch.exp(-of_box).view(b * g, -1))
        return {"positive_bag_loss": torch.where(there.flatten(), positive, 0.0).sum()
                / num_gts.clamp(min=1), "negative_bag_loss": negative}

    @torch.no_grad()
    def object_prob(self, anchors: Tensor, deltas: Tensor, gts: GroundTruth) -> Tensor:
        """How likely an anchor's box is that of a gt of a class, ``[B, N, C]``.

        Args:
            anchors: [N, 4].
            deltas: [B, N, 4].
            gts: of the batch.
        """
        b, g = gts.labels.shape
        deltas = at_least_float32(deltas)
        prob = deltas.new_zeros((b, self.cls_out_channels, len(anchors)))
        if g == 0:
            return prob.transpose(1, 2)
        ious = bbox_overlaps(gts.boxes.to(deltas.dtype), self.bbox_coder.decode(
            anchors.repeat(b, 1), deltas.flatten(0, 1)).view_as(deltas))  # [B, G, N]
        best = ious.amax(2, keepdim=True).clamp(min=self.bbox_thr + EPS)
        of_gt = ((ious - self.bbox_thr) / (best - self.bbox_thr)).clamp(min=0, max=1)
        there = torch.arange(g, device=deltas.device) < gts.counts[:, None]
        of_gt = torch.where(there[..., None], of_gt, 0.0)
        prob.scatter_reduce_(1, gts.labels[..., None].expand_as(of_gt), of_gt, "amax")
        return prob.transpose(1, 2)

    def positive_bag_loss(self, matched_cls_prob: Tensor, matched_box_prob: Tensor) -> Tensor:
        """``-alpha log(mean-max(P_cls P_box))``, [G], of the anchors [G, K] of each bag."""
        prob = at_least_float32(matched_cls_prob * matched_box_prob)
        weight = 1 / (1 - prob).clamp(min=EPS)
        weight = weight / weight.sum(dim=1, keepdim=True)
        bag = (weight * prob).sum(dim=1)
        return self.alpha * cross_entropy_of_probabilities(bag, torch.ones_like(bag))

    def negative_bag_loss(self, cls_prob: Tensor, box_prob: Tensor) -> Tensor:
        """``(1 - alpha) FL(P_cls (1 - P_box))``, of the shape of both."""
        prob = at_least_float32(cls_prob * (1 - box_prob)).clamp(min=EPS, max=1 - EPS)
        return (1 - self.alpha) * prob ** self.gamma * cross_entropy_of_probabilities(
            prob, torch.zeros_like(prob))
