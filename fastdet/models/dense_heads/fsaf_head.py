"""FSAF's head (arXiv 1903.00621): each gt is learnt on the level where its loss is least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.core.bbox import GroundTruth
from fastdet.core.utils import multi_apply

from ..builder import HEADS
from ..losses.utils import at_least_float32
from .anchor_head import AnchorTargets
from .base_dense_head import Meta
from .retina_head import RetinaHead

__all__ = ["FSAFHead"]

#: The loss of a gt on a level where nothing learns it.
NO_LOSS = 1e6


@HEADS.register_module()
class FSAFHead(RetinaHead):
    """RetinaNet's head on one square anchor a place, with levels chosen by the losses.

    Args:
        args: of :class:`RetinaHead`; both losses must have ``reduction='none'``.
        score_threshold: what a score must be above to count in ``pos_recall``.
        init_cfg: how weights are initialised.
        kwargs: of :class:`RetinaHead`.

    Raises:
        ValueError: a loss is reduced.
    """

    def __init__(self, *args: Any, score_threshold: float | None = None,
                 init_cfg: Any = dict(
                     type="Normal", layer="Conv2d", std=0.01,
                     override=[dict(type="Normal", name="retina_cls", std=0.01, bias_prob=0.01),
                               dict(type="Normal", name="retina_reg", std=0.01, bias=0.25)]),
                 **kwargs: Any) -> None:
        super().__init__(*args, init_cfg=init_cfg, **kwargs)  # type: ignore[misc]
        self.score_threshold = score_threshold
        for name in ("loss_cls", "loss_bbox"):
            if getattr(self, name).reduction != "none":
                raise ValueError(f"FSAFHead compares the losses of levels: {name} must have "
                                 f"reduction='none', got {getattr(self, name).reduction!r}")

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """Scores [B, A C, H, W] and positive distances [B, A 4, H, W] of one level."""
        score, distances = super().forward_single(x)
        return score, self.relu(distances)

    def targets(self, anchors: Tensor, per_level: Sequence[int], valid: Tensor,
                gts: GroundTruth) -> AnchorTargets:
        gt_inds, shadowed = self.assigner.assign_shadowed(anchors, gts, self.cls_out_channels)
        gt_inds = torch.where(valid, gt_inds, -1)
        pos, neg = gt_inds > 0, gt_inds == 0
        boxes, labels = gts.of(gt_inds)
        boxes = boxes.to(anchors.dtype)
        if not self.reg_decoded_bbox:
            own = anchors.expand_as(boxes)
            boxes = self.bbox_coder.encode(own.flatten(0, 1), torch.where(
                pos[..., None], boxes, own).flatten(0, 1)).view_as(boxes)
        pos_weight = self.train_cfg.get("pos_weight", -1)
        weights = torch.where(pos, pos_weight if pos_weight > 0 else 1.0,
                              neg.to(anchors.dtype))[..., None]
        return AnchorTargets(
            torch.where(pos, labels, self.num_classes), torch.where(shadowed, 0.0, weights),
            torch.where(pos[..., None], boxes, 0.0),
            pos[..., None].to(boxes.dtype).expand_as(boxes),
            pos.sum(1).clamp(min=1).sum(), neg.sum(1).clamp(min=1).sum(), gt_inds)

    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             gt_bboxes: list[Tensor], gt_labels: list[Tensor], img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Any]:
        """Losses of each level, and what they are of.

        Args:
            cls_scores: [B, C, H, W] of each level.
            bbox_preds: [B, 4, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: of each image.
            gt_bboxes_ignore: [g, 4] of each image.

        Returns:
            ``loss_cls`` and ``loss_bbox``, lists of scalars; ``num_pos``, positives of an image,
            and ``pos_recall``, the share of them whose class is right, in percent.
        """
        bbox_preds = [pred.clamp(min=1e-4) for pred in bbox_preds]  # no area of zero
        levels, targets = self.batch_targets(cls_scores, gt_bboxes, gt_labels, img_metas,
                                             gt_bboxes_ignore)
        sizes = [len(level) for level in levels]
        parts = [part.split(sizes, dim=1) for part in targets[:4]]
        of_class, of_box = multi_apply(self.loss_single, cls_scores, bbox_preds, levels, *parts,
                                       num_total_samples=targets.num_pos)
        # Gts of the whole batch, numbered from 1; 0 is none.
        b = len(gt_bboxes)
        most = max(len(boxes) for boxes in gt_bboxes)
        first = torch.arange(b, device=levels[0].device)[:, None] * most
        gt_of = torch.where(targets.gt_inds > 0, targets.gt_inds + first, 0).split(sizes, dim=1)
        with torch.no_grad():
            best = torch.stack([self._mean_loss(c, box, gt.flatten(), b * most)
                                for c, box, gt in zip(of_class, of_box, gt_of)]).argmin(0)
        losses_cls, losses_bbox, chosen = [], [], []
        for level, (c, box, gt, labels) in enumerate(zip(of_class, of_box, gt_of, parts[0])):
            gt, labels = gt.flatten(), labels.flatten()
            lost = (gt > 0) & (best[gt] != level)
            # Of an anchor whose gt is learnt elsewhere, only its own class does not count.
            own = labels[:, None] == torch.arange(c.shape[1], device=c.device)
            losses_cls.append(torch.where(own & lost[:, None], 0.0, c).sum())
            losses_bbox.append(torch.where(lost, 0.0, box).sum())
            chosen.append((gt > 0) & ~lost)
        num_pos = at_least_float32(torch.cat(chosen).sum().to(of_box[0].dtype))
        factor = torch.where(num_pos == 0, num_pos + targets.num_neg, num_pos)
        return {"loss_cls": [loss / factor for loss in losses_cls],
                "loss_bbox": [loss / factor for loss in losses_bbox], "num_pos": num_pos / b,
                "pos_recall": self._recall(cls_scores, [part.flatten() for part in parts[0]],
                                           chosen)}

    @staticmethod
    def _mean_loss(of_class: Tensor, of_box: Tensor, gt_of: Tensor, num_gts: int) -> Tensor:
        """The mean loss [num_gts + 1] of the anchors [N] of each gt on one level."""
        loss = of_class.sum(1) + (of_box.sum(1) if of_box.dim() == 2 else of_box)
        total = loss.new_zeros(num_gts + 1).index_add_(0, gt_of, loss)
        counts = loss.new_zeros(num_gts + 1).index_add_(0, gt_of, torch.ones_like(loss))
        return torch.where(counts > 0, total / counts, NO_LOSS)

    @torch.no_grad()
    def _recall(self, cls_scores: Sequence[Tensor], labels: Sequence[Tensor],
                chosen: Sequence[Tensor]) -> Tensor:
        """The share of positives whose class has the highest score, in percent."""
        scores = torch.cat([m.permute(0, 2, 3, 1).reshape(-1, self.cls_out_channels)
                            for m in cls_scores])
        scores = scores.sigmoid() if self.use_sigmoid_cls else scores.softmax(1)
        score, found = scores.max(1)
        pos = torch.cat(list(chosen))
        right = pos & (found == torch.cat(list(labels)))
        if self.score_threshold is not None:
            right = right & (score > self.score_threshold)
        return right.sum().float()[None] * (100.0 / pos.sum().clamp(min=1))
