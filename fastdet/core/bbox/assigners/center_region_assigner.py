"""Priors in the centre of a gt, and in the shadow around it (FSAF, arXiv 1903.00621)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..builder import BBOX_ASSIGNERS
from ..ground_truth import GroundTruth
from ..iou_calculators import build_iou_calculator
from .assign_result import AssignResult
from .base_assigner import BaseAssigner
from .centers import box_centers, depth_in_boxes, labels_of

__all__ = ["CenterRegionAssigner"]


def _scaled(boxes: Tensor, scale: float) -> Tensor:
    """Boxes [..., 4] of ``scale`` times the sides around the same centres."""
    centre, half = box_centers(boxes), (boxes[..., 2:] - boxes[..., :2]) * 0.5 * scale
    return torch.cat([centre - half, centre + half], dim=-1)


@BBOX_ASSIGNERS.register_module()
class CenterRegionAssigner(BaseAssigner):
    """A prior in the core of a gt learns it; one in its shadow learns nothing of its class.

    Args:
        pos_scale: of the core, in sides of the gt.
        neg_scale: of the shadow.
        min_pos_iof: the share of a prior in a core, or a shadow, that counts must be larger.
        ignore_gt_scale: of regions to ignore.
        foreground_dominate: a prior that learns a class is not in a shadow of that class;
            else it learns nothing.
        iou_calculator: the config of the overlap.
    """

    def __init__(self, pos_scale: float, neg_scale: float, min_pos_iof: float = 1e-2,
                 ignore_gt_scale: float = 0.5, foreground_dominate: bool = False,
                 iou_calculator: dict[str, Any] = dict(type="BboxOverlaps2D")) -> None:
        self.pos_scale = pos_scale
        self.neg_scale = neg_scale
        self.min_pos_iof = min_pos_iof
        self.ignore_gt_scale = ignore_gt_scale
        self.foreground_dominate = foreground_dominate
        self.iou_calculator = build_iou_calculator(iou_calculator)

    def get_gt_priorities(self, gt_bboxes: Tensor) -> Tensor:
        """Ranks [..., G] of gts [..., G, 4]: the smaller, the higher."""
        area = (gt_bboxes[..., 2:] - gt_bboxes[..., :2]).prod(-1)
        return area.sort(descending=True).indices.argsort()

    def assign(self, bboxes: Tensor, gt_bboxes: Tensor, gt_bboxes_ignore: Tensor | None = None,
               gt_labels: Tensor | None = None) -> AssignResult:
        """Assign the gts of one image.

        Args:
            bboxes: [N, 4], priors.
            gt_bboxes: [G, 4].
            gt_bboxes_ignore: [g, 4].
            gt_labels: [G].

        Returns:
            The result, with the property ``shadowed_labels`` [S, 2]: prior and class that do not
            count; ``None`` without labels.
        """
        num_gts = len(gt_bboxes)
        ignore = None if gt_bboxes_ignore is None or not len(gt_bboxes_ignore) else (
            gt_bboxes_ignore[None])
        count = gt_bboxes.new_full((1,), num_gts, dtype=torch.int32)
        gts = GroundTruth(
            gt_bboxes[None], (count.new_zeros(num_gts) if gt_labels is None else gt_labels
                              ).long()[None], count, ignore,
            None if ignore is None else count.new_full((1,), ignore.shape[1]))
        gt_inds, shadow = self._regions(bboxes, gts)
        shadowed = None
        if gt_labels is not None:
            gt_inds, shadow = self._by_class(gt_inds, shadow, gts)
            prior, gt = shadow[0].nonzero(as_tuple=True)
            shadowed = torch.stack([prior, gt_labels.long()[gt]], dim=1)
        result = AssignResult(num_gts, gt_inds[0], None, labels=labels_of(gt_inds[0], gt_labels))
        result.set_extra_property("shadowed_labels", shadowed)
        return result

    def assign_shadowed(self, bboxes: Tensor, gts: GroundTruth,
                        num_classes: int) -> tuple[Tensor, Tensor]:
        """Assign the gts of a batch.

        Args:
            bboxes: [N, 4], priors.
            gts: of the batch.
            num_classes: C.

        Returns:
            ``[B, N]`` gts, as :attr:`AssignResult.gt_inds` has them, and of which classes a prior
            is in a shadow, ``[B, N, C]``.
        """
        gt_inds, shadow = self._by_class(*self._regions(bboxes, gts), gts)
        of_class = gts.labels[..., None] == torch.arange(num_classes, device=bboxes.device)
        return gt_inds, torch.bmm(shadow.to(bboxes.dtype), of_class.to(bboxes.dtype)) > 0

    def _regions(self, bboxes: Tensor, gts: GroundTruth) -> tuple[Tensor, Tensor]:
        """The gt of each prior [B, N], and in the shadow of which gts it is [B, N, G]."""
        b, g = gts.labels.shape
        priors = bboxes.expand(b, -1, -1)
        points = box_centers(priors)[:, :, None]
        boxes = gts.boxes.to(bboxes.dtype)
        there = (torch.arange(g, device=bboxes.device) < gts.counts[:, None])[:, None]

        def covered(scale: float) -> Tensor:
            share = self.iou_calculator(priors, _scaled(boxes, scale), mode="iof")
            return (share > self.min_pos_iof) & there

        # A prior of any size is in the core, but its centre must be in the gt.
        core = covered(self.pos_scale) & (depth_in_boxes(points, boxes[:, None]) > 0)
        shadow = covered(self.neg_scale) & ~core
        gt_inds = gts.labels.new_zeros(priors.shape[:2])
        if g:
            rank = torch.where(core, self.get_gt_priorities(boxes)[:, None], -1)
            best, gt = rank.max(-1)
            gt_inds = torch.where(best >= 0, gt + 1, gt_inds)
            # In the core of a larger gt, too: in its shadow.
            mine = torch.arange(1, g + 1, device=bboxes.device) == gt_inds[..., None]
            shadow = shadow | (core & ~mine)
        if gts.ignore is not None and gts.ignore_counts is not None:
            region = torch.arange(gts.ignore.shape[1], device=bboxes.device)
            inside = depth_in_boxes(points, _scaled(gts.ignore.to(bboxes.dtype),
                                                    self.ignore_gt_scale)[:, None]) > 0
            inside = inside & (region < gts.ignore_counts[:, None])[:, None]
            gt_inds = gt_inds.masked_fill(inside.any(-1), -1)
        return gt_inds, shadow

    def _by_class(self, gt_inds: Tensor, shadow: Tensor,
                  gts: GroundTruth) -> tuple[Tensor, Tensor]:
        """Settle priors that learn a class in whose shadow they are."""
        mine = torch.where(gt_inds > 0, gts.of(gt_inds)[1], -1)
        both = shadow & (gts.labels[:, None] == mine[..., None])
        if self.foreground_dominate:
            return gt_inds, shadow & ~both
        return gt_inds.masked_fill(both.any(-1), 0), shadow
