"""What an assigner is."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ..ground_truth import GroundTruth

__all__ = ["BaseAssigner"]


class BaseAssigner(metaclass=ABCMeta):
    """Decides which gt each candidate box learns."""

    @abstractmethod
    def assign(self, bboxes: Any, gt_bboxes: Any, gt_bboxes_ignore: Any = None,
               gt_labels: Any = None) -> Any:
        """Assign candidates to gts.

        Args:
            bboxes: ``(N, 4)`` candidates.
            gt_bboxes: ``(G, 4)``.
            gt_bboxes_ignore: ``(I, 4)`` regions without labels.
            gt_labels: ``(G,)``.

        Returns:
            An :class:`AssignResult`.
        """

    def assign_batch(self, bboxes: Tensor, gts: GroundTruth, valid: Tensor | None = None
                     ) -> tuple[Tensor, Tensor]:
        """Assign the candidates of a batch, image by image where an assigner has no other way.

        Args:
            bboxes: ``(N, 4)`` for all images or ``(B, N, 4)``.
            gts: of the batch.
            valid: ``(B, N)`` bool; the others are neither.

        Returns:
            ``(B, N)`` gts, as :attr:`AssignResult.gt_inds` has them, and the overlaps.
        """
        results = []
        ignored = None if gts.ignore_counts is None else gts.ignore_counts.tolist()
        for i, count in enumerate(gts.counts.tolist()):
            mine = bboxes if bboxes.dim() == 2 else bboxes[i]
            keep = slice(None) if valid is None else valid[i]
            regions = None if gts.ignore is None or ignored is None else (
                gts.ignore[i, :ignored[i]])
            one = self.assign(mine[keep], gts.boxes[i, :count], regions, gts.labels[i, :count])
            inds, overlaps = one.gt_inds.new_full((len(mine),), -1), mine.new_zeros(len(mine))
            inds[keep] = one.gt_inds
            if one.max_overlaps is not None:
                overlaps[keep] = one.max_overlaps.to(overlaps.dtype)
            results.append((inds, overlaps))
        inds, overlaps = (torch.stack(part) for part in zip(*results))
        return inds, overlaps
