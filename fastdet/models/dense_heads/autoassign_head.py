"""AutoAssign (arXiv 2007.03496): where an object is learnt is itself learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import bias_init_with_prob, normal_init
from fastdet.core.anchor import MlvlPointGenerator
from fastdet.core.bbox import GroundTruth
from fastdet.core.bbox.assigners.centers import box_centers, depth_in_boxes
from fastdet.core.bbox.iou_calculators import bbox_overlaps
from fastdet.core.utils import reduce_mean

from ..builder import HEADS
from ..losses.utils import at_least_float32, cross_entropy_of_probabilities
from .base_dense_head import Meta
from .fcos_head import FCOSHead

__all__ = ["AutoAssignHead", "CenterPrior"]

EPS = 1e-12


class CenterPrior(nn.Module):
    """A gaussian around a gt's centre, whose mean and width each class learns (eq. 4).

    Args:
        force_topk: a gt in which no point lies takes the points of the highest prior.
        topk: how many.
        num_classes: foreground classes.
        strides: pixels between the points of each level.
    """

    def __init__(self, force_topk: bool = False, topk: int = 9, num_classes: int = 80,
                 strides: Sequence[int] = (8, 16, 32, 64, 128)) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(num_classes, 2))
        self.sigma = nn.Parameter(torch.ones(num_classes, 2))
        self.strides = strides
        self.force_topk = force_topk
        self.topk = topk

    def forward(self, points: Tensor, strides: Tensor, gts: GroundTruth,
                inside: Tensor) -> tuple[Tensor, Tensor]:
        """The prior of each point for each gt, zero where it may not learn it.

        Args:
            points: [N, 2].
            strides: [N].
            gts: of the batch.
            inside: [B, N, G], which points lie in which gts.

        Returns:
            ``[B, N, G]``, and ``inside`` with what ``force_topk`` adds.
        """
        off = (points[:, None] - box_centers(gts.boxes)[:, None]) / strides[:, None, None]
        apart = (off - self.mean[gts.labels][:, None]) ** 2
        prior = torch.exp(-apart / (2 * self.sigma[gts.labels][:, None] ** 2)).prod(dim=-1)
        if self.force_topk and inside.shape[2]:
            best = prior.topk(self.topk, dim=1).indices
            there = torch.arange(inside.shape[2], device=best.device) < gts.counts[:, None]
            alone = (~inside.any(1) & there)[:, None]
            inside = inside | (torch.zeros_like(inside).scatter_(1, best, True) & alone)
        return torch.where(inside, prior, 0.0), inside


@HEADS.register_module()
class AutoAssignHead(FCOSHead):
    """FCOS's head, whose points weigh positives and negatives by what they predict.

    Args:
        args: of :class:`FCOSHead`.
        force_topk: of :class:`CenterPrior`.
        topk: of :class:`CenterPrior`.
        pos_loss_weight: weight of the positives.
        neg_loss_weight: weight of the negatives.
        center_loss_weight: weight of the priors.
        kwargs: of :class:`FCOSHead`.
    """

    def __init__(self, *args: Any, force_topk: bool = False, topk: int = 9,
                 pos_loss_weight: float = 0.25, neg_loss_weight: float = 0.75,
                 center_loss_weight: float = 0.75, **kwargs: Any) -> None:
        super().__init__(*args, conv_bias=True, **kwargs)
        self.center_prior = CenterPrior(force_topk, topk, self.num_classes, self.strides)
        self.pos_loss_weight = pos_loss_weight
        self.neg_loss_weight = neg_loss_weight
        self.center_loss_weight = center_loss_weight
        self.prior_generator = MlvlPointGenerator(self.strides, offset=0)

    def init_weights(self) -> None:
        """By ``init_cfg``; classes start at a probability of 0.02, distances at 4 strides."""
        super().init_weights()
        normal_init(self.conv_cls, std=0.01, bias=bias_init_with_prob(0.02))
        normal_init(self.conv_reg, std=0.01, bias=4.0)

    def forward_single(self, x: Tensor, scale: nn.Module,  # type: ignore[override]
                       stride: int) -> tuple[Tensor, ...]:
        """Scores, distances in pixels and objectness of one level."""
        classes, boxes = self.features(x)
        distance = scale(self.conv_reg(boxes)).float().clamp(min=0) * stride
        return self.conv_cls(classes), distance, self.conv_centerness(boxes)

    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             objectnesses: list[Tensor], gt_bboxes: list[Tensor], gt_labels: list[Tensor],
             img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Losses of all levels together.

        Args:
            cls_scores: [B, C, H, W] of each level.
            bbox_preds: [B, 4, H, W] of each level.
            objectnesses: [B, 1, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: not used.
            gt_bboxes_ignore: not used.

        Returns:
            ``loss_pos``, ``loss_neg`` and ``loss_center``, scalars.
        """
        points, strides, _ = self.points(cls_scores, bbox_preds[0].dtype)
        gts = GroundTruth.pad(gt_bboxes, gt_labels)
        b, g = gts.labels.shape
        joint = (self.flattened(cls_scores, self.cls_out_channels).sigmoid()
                 * self.flattened(objectnesses, 1).sigmoid()).unflatten(0, (b, -1))
        there = torch.arange(g, device=points.device) < gts.counts[:, None]
        inside = (depth_in_boxes(points[:, None], gts.boxes[:, None]) > 0) & there[:, None]
        prior, inside = self.center_prior(points, strides, gts, inside)
        num_gts = at_least_float32(gts.counts.to(prior.dtype))
        mass = prior.sum((1, 2))
        for_pos = reduce_mean(num_gts.sum()).clamp(min=1)
        for_neg = reduce_mean(mass.detach().sum()).clamp(min=1)
        if g == 0:  # every parameter gets a gradient, of zero
            return {"loss_pos": sum(m.sum() for m in bbox_preds) * 0,  # type: ignore[dict-item]
                    "loss_neg": self.get_neg_loss(joint, gts, prior, inside).sum() / for_neg,
                    "loss_center": sum(m.sum() for m in objectnesses) * 0
                    + (self.center_prior.mean.sum() + self.center_prior.sigma.sum()) * 0}
        pred = self.bbox_coder.decode(points.repeat(b, 1), self.flattened(bbox_preds, 4))
        pred = pred.view(b, -1, 1, 4).expand(-1, -1, g, -1).reshape(-1, 4)
        boxes = gts.boxes.to(pred.dtype)[:, None].expand(-1, len(points), -1, -1).reshape(-1, 4)
        of_box = self.loss_bbox(pred, boxes, weight=None, reduction_override="none")
        with torch.no_grad():
            ious = bbox_overlaps(pred, boxes, is_aligned=True).view_as(inside)
            ious = torch.where(there[:, None], ious, 0.0).amax(-1, keepdim=True)
            ious = torch.where(inside, ious, 0.0)
        pos = self.get_pos_loss(joint, of_box.view_as(prior), gts, prior)
        pos = torch.where(there, pos, 0.0).sum() * self.pos_loss_weight
        neg = self.get_neg_loss(joint, gts, ious, inside).sum()
        centre = torch.where(inside.any(2).any(1), num_gts / mass.clamp(min=EPS), mass * 0)
        return {"loss_pos": pos / for_pos, "loss_neg": neg / for_neg,
                "loss_center": centre.mean() * self.center_loss_weight}

    def get_pos_loss(self, joint: Tensor, reg_loss: Tensor, gts: GroundTruth,
                     prior: Tensor) -> Tensor:
        """``-log`` of the weighted mean of each gt's confidences (eq. 6), ``[B, G]``.

        Args:
            joint: [B, N, C], classification times objectness.
            reg_loss: [B, N, G].
            gts: of the batch.
            prior: [B, N, G].
        """
        own = gts.labels[:, None].expand(-1, joint.shape[1], -1)
        confidence = joint.gather(2, own) * torch.exp(-reg_loss)
        weight = torch.exp(confidence * 3) * prior
        weight = weight / weight.sum(1, keepdim=True).clamp(min=EPS)
        mean = (confidence * weight).sum(1)
        return cross_entropy_of_probabilities(mean, torch.ones_like(mean))

    def get_neg_loss(self, joint: Tensor, gts: GroundTruth, ious: Tensor,
                     inside: Tensor) -> Tensor:
        """Focal loss of the negatives, less the better a point's box is (eq. 8), ``[B, N, C]``.

        Args:
            joint: [B, N, C], classification times objectness.
            gts: of the batch.
            ious: [B, N, G].
            inside: [B, N, G].
        """
        weight = torch.ones_like(joint)
        g = ious.shape[2]
        if g:
            good = 1 / (1 - ious).clamp(min=EPS)
            least = torch.where(inside, good, torch.inf).amin(1, keepdim=True)
            most = torch.where(inside, good, -torch.inf).amax(1, keepdim=True)
            good = torch.where(inside, good - least + EPS, 0.0) / torch.where(
                most > least, most - least, 0.0).add(EPS)
            # Of several gts of a class the last one counts.
            nth = torch.where(inside, torch.arange(1, g + 1, device=ious.device), 0)
            own = gts.labels[:, None].expand_as(nth)
            last = nth.new_zeros(joint.shape).scatter_reduce_(2, own, nth, "amax")
            weight = torch.where(last > 0, 1 - good.gather(2, (last - 1).clamp(min=0)), weight)
        logits = joint * weight.to(joint.dtype)
        loss = logits ** 2 * cross_entropy_of_probabilities(logits, torch.zeros_like(logits))
        return loss * self.neg_loss_weight
