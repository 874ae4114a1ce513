"""What trains a head of regions: so many candidates of each image, padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ..ground_truth import GroundTruth
from ..transforms import padded_rois
from .random_mask import random_masks
from .sampling_result import SamplingResult

__all__ = ["Samples"]


class Positives(NamedTuple):
    """The positives of one image, under the names of :class:`SamplingResult`.

    Attributes:
        pos_bboxes: [p, 4].
        pos_assigned_gt_inds: [p], rows of the image's gts.
        pos_gt_labels: [p].
    """

    pos_bboxes: Tensor
    pos_assigned_gt_inds: Tensor
    pos_gt_labels: Tensor


@dataclass(frozen=True)
class Samples:
    """S candidates of each of B images: positives first, then negatives, then nothing.

    Attributes:
        boxes: [B, S, 4].
        valid: [B, S], which rows are candidates.
        pos: [B, S], which are positive.
        gt_boxes: [B, S, 4], the gt of a positive.
        gt_labels: [B, S], its class.
        gt_inds: [B, S], its row among the image's gts.
        is_gt: [B, S], whether the candidate is a gt that was added.
    """

    boxes: Tensor
    valid: Tensor
    pos: Tensor
    gt_boxes: Tensor
    gt_labels: Tensor
    gt_inds: Tensor
    is_gt: Tensor

    @property
    def rois(self) -> Tensor:
        """[B S, 5], the image's index and the corners, zeros where there is no candidate."""
        return padded_rois(self.boxes).flatten(0, 1)

    @classmethod
    def draw(cls, boxes: Tensor, valid: Tensor, gt_inds: Tensor, gts: GroundTruth, num: int,
             pos_fraction: float, neg_pos_ub: float, num_added: int) -> Samples:
        """Draw at random, as ``RandomSampler`` does, without a host sync.

        Args:
            boxes: [B, M, 4], candidates.
            valid: [B, M].
            gt_inds: [B, M], as :attr:`AssignResult.gt_inds` has them.
            gts: of the batch.
            num: S.
            pos_fraction: at most this share of them are positives.
            neg_pos_ub: at most so many negatives for each positive; -1 sets no bound.
            num_added: how many of the first candidates are gts.
        """
        m = boxes.shape[1]
        pos, neg = random_masks(torch.where(valid, gt_inds, -1), num, pos_fraction, neg_pos_ub)
        place = torch.arange(m, device=boxes.device)
        key = torch.where(pos, place, torch.where(neg, m + place, 2 * m + place))
        rows = key.argsort(dim=1)[:, :num]
        chosen = (pos | neg).gather(1, rows)
        mine = gt_inds.gather(1, rows)
        gt_boxes, labels = gts.of(mine)
        return cls(
            torch.where(chosen[..., None], boxes.gather(1, rows[..., None].expand(-1, -1, 4)), 0),
            chosen, pos.gather(1, rows), gt_boxes, labels, (mine - 1).clamp(min=0),
            chosen & (rows < num_added))

    @classmethod
    def pad(cls, results: Sequence[SamplingResult]) -> Samples:
        """Pad what any sampler chose for each image."""
        width = max(len(r.pos_inds) + len(r.neg_inds) for r in results)
        like = results[0].pos_bboxes
        b = len(results)
        boxes, gt_boxes = (like.new_zeros((b, width, 4)) for _ in range(2))
        valid, pos, is_gt = (like.new_zeros((b, width), dtype=torch.bool) for _ in range(3))
        labels, gt_inds = (like.new_zeros((b, width), dtype=torch.long) for _ in range(2))
        for i, r in enumerate(results):
            p, n = len(r.pos_inds), len(r.pos_inds) + len(r.neg_inds)
            boxes[i, :n] = r.bboxes[:, :4]
            valid[i, :n], pos[i, :p] = True, True
            is_gt[i, :p] = r.pos_is_gt.bool()
            gt_boxes[i, :p] = r.pos_gt_bboxes
            gt_inds[i, :p] = r.pos_assigned_gt_inds
            if r.pos_gt_labels is not None:
                labels[i, :p] = r.pos_gt_labels
        return cls(boxes, valid, pos, gt_boxes, labels, gt_inds, is_gt)

    @cached_property
    def pos_rows(self) -> Tensor:
        """[P], which of the B S rows are positive; one host sync, however often it is read."""
        return self.pos.flatten().nonzero()[:, 0]

    def positives(self) -> list[Positives]:
        """The positives of each image; a host sync."""
        counts = self.pos.sum(1).tolist()
        each = (t.flatten(0, 1)[self.pos_rows].split(counts)
                for t in (self.boxes, self.gt_inds, self.gt_labels))
        return [Positives(*one) for one in zip(*each)]
