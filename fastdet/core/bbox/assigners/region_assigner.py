"""Anchors whose centre is in the middle of a gt (Guided Anchoring, arXiv 1901.03278)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...anchor.utils import anchor_inside_flags, calc_region
from ..builder import BBOX_ASSIGNERS
from ..ground_truth import GroundTruth
from .assign_result import AssignResult
from .base_assigner import BaseAssigner
from .centers import labels_of

__all__ = ["RegionAssigner"]


@BBOX_ASSIGNERS.register_module()
class RegionAssigner(BaseAssigner):
    """On the level of a gt's size, anchors in its middle learn it and those around are ignored.

    The paper ignores the surroundings on the next levels, too; MMDetection does not, except where
    guided anchors learn where objects are.

    Args:
        center_ratio: share of the box whose anchors learn it.
        ignore_ratio: share of the box whose other anchors are ignored.
    """

    def __init__(self, center_ratio: float = 0.2, ignore_ratio: float = 0.5) -> None:
        self.center_ratio = center_ratio
        self.ignore_ratio = ignore_ratio

    def assign(self, mlvl_anchors: Sequence[Tensor],  # type: ignore[override]
               mlvl_valid_flags: Sequence[Tensor], gt_bboxes: Tensor, img_meta: dict[str, Any],
               featmap_sizes: Sequence[Any], anchor_scale: float, anchor_strides: Sequence[Any],
               gt_bboxes_ignore: Tensor | None = None, gt_labels: Tensor | None = None,
               allowed_border: float = 0) -> AssignResult:
        """Assign the gts of one image.

        Args:
            mlvl_anchors: [n, 4] of each level.
            mlvl_valid_flags: [n] of each level.
            gt_bboxes: [G, 4].
            img_meta: ``img_shape`` is read.
            featmap_sizes: (height, width) of each level.
            anchor_scale: side of the anchors in strides.
            anchor_strides: of each level.
            gt_bboxes_ignore: must be ``None``.
            gt_labels: [G].
            allowed_border: by how many pixels an anchor may overhang; if negative, by any.

        Raises:
            ValueError: there are ignored regions.
        """
        if gt_bboxes_ignore is not None:
            raise ValueError("RegionAssigner: a gt's surroundings are ignored, other regions "
                             "cannot be")
        anchors = torch.cat(list(mlvl_anchors))
        if len(gt_bboxes) == 0:
            inds = anchors.new_zeros(len(anchors), dtype=torch.long)
        else:
            inside = anchor_inside_flags(anchors, torch.cat(list(mlvl_valid_flags)),
                                         img_meta["img_shape"], allowed_border)
            inds = self.assign_levels([a[None] for a in mlvl_anchors], inside[None],
                                      GroundTruth.pad([gt_bboxes]), featmap_sizes, anchor_scale,
                                      anchor_strides)[0]
        return AssignResult(len(gt_bboxes), inds, None, labels=labels_of(inds, gt_labels))

    def assign_levels(self, mlvl_anchors: Sequence[Tensor], inside: Tensor, gts: GroundTruth,
                      featmap_sizes: Sequence[Any], anchor_scale: float,
                      anchor_strides: Sequence[Any], nearby: bool = False) -> Tensor:
        """The gt of each anchor of a batch, ``[B, N]``, as :attr:`AssignResult.gt_inds` has it.

        Args:
            mlvl_anchors: [B or 1, n, 4] of each level.
            inside: [B, N], of all levels; the others are neither.
            gts: of the batch.
            featmap_sizes: (height, width) of each level.
            anchor_scale: side of the anchors in strides.
            anchor_strides: of each level.
            nearby: a gt's surroundings are ignored on the levels next to its own, too.
        """
        none = inside.long() - 1
        g = gts.labels.shape[1]
        if g == 0:
            return none
        strides = [s[0] if isinstance(s, (tuple, list)) else s for s in anchor_strides]
        boxes, last = gts.boxes, len(mlvl_anchors) - 1
        size = (boxes[..., 2:] - boxes[..., :2]).prod(-1).sqrt()
        least = size.new_full((), float(anchor_scale * strides[0]))
        level = torch.floor(size.log2() - least.log2() + 0.5).clamp(0, last).long()
        there = torch.arange(g, device=boxes.device) < gts.counts[:, None]
        level = torch.where(there, level, -1)
        number = torch.arange(1, g + 1, device=boxes.device)
        out = []
        for i, anchors in enumerate(mlvl_anchors):
            at = (anchors[..., :2] / strides[i] + anchors[..., 2:] / strides[i]) * 0.5

            def within(share: float, at: Tensor = at, i: int = i) -> Tensor:
                x1, y1, x2, y2 = (edge[:, None] for edge in calc_region(
                    (boxes / strides[i]).movedim(-1, 0), (1 - share) / 2, featmap_sizes[i]))
                x, y = at[..., 0:1], at[..., 1:2]
                return (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)

            own = (level == i)[:, None]
            around = within(self.ignore_ratio)
            next_to = (((level - i).abs() == 1) & there)[:, None]
            middle = within(self.center_ratio) & own
            # One gt after the other: the last one that says something is right.
            event = torch.where(middle | (around & own), number, 0)
            final = event.amax(-1)
            learns = middle.gather(-1, (final - 1).clamp(min=0)[..., None])[..., 0]
            found = torch.where(final == 0, 0, torch.where(learns, final, -1))
            if nearby:
                found = torch.where((found == 0) & (around & next_to).any(-1), -1, found)
            out.append(found)
        return torch.where(inside, torch.cat(out, dim=1), -1)
