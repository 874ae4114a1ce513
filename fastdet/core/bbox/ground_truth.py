"""The ground truth of a batch as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["GroundTruth"]


def _padded(each: Sequence[Tensor], width: int, fill: float) -> Tensor:
    """[n, ...] of each image to [B, width, ...]."""
    out = each[0].new_full((len(each), width, *each[0].shape[1:]), fill)
    for i, one in enumerate(each):
        out[i, :len(one)] = one
    return out


def _counts(each: Sequence[Tensor]) -> Tensor:
    return torch.tensor([len(one) for one in each], dtype=torch.int32).to(
        each[0].device, non_blocking=True)


@dataclass(frozen=True)
class GroundTruth:
    """Boxes and classes of B images, padded once, so that nothing loops over images after it.

    Attributes:
        boxes: [B, G, 4], corners; zeros behind an image's own.
        labels: [B, G] int64, zeros behind an image's own.
        counts: [B] int32, how many boxes each image has.
        ignore: [B, I, 4], regions without labels, or ``None``.
        ignore_counts: [B] int32, or ``None``.
    """

    boxes: Tensor
    labels: Tensor
    counts: Tensor
    ignore: Tensor | None = None
    ignore_counts: Tensor | None = None

    @classmethod
    def pad(cls, gt_bboxes: Sequence[Tensor] | GroundTruth,
            gt_labels: Sequence[Tensor] | None = None,
            gt_bboxes_ignore: Sequence[Tensor] | None = None) -> GroundTruth:
        """Pad what each image has.

        What is padded already is returned as it is: every ``loss`` and ``forward_train`` takes it
        in place of its lists, and is then free of Python's numbers, for compilers.

        Args:
            gt_bboxes: [n, 4] of each image, or a padded batch with labels and all.
            gt_labels: [n] of each image; zeros where there are none.
            gt_bboxes_ignore: [i, 4] of each image.

        Raises:
            ValueError: an image has not as many labels as boxes, or there are other images.
        """
        if isinstance(gt_bboxes, GroundTruth):
            return gt_bboxes
        for name, other in (("gt_labels", gt_labels), ("gt_bboxes_ignore", gt_bboxes_ignore)):
            if other is not None and len(other) != len(gt_bboxes):
                raise ValueError(f"gt_bboxes are of {len(gt_bboxes)} images, {name} of "
                                 f"{len(other)}")
        for i, (boxes, labels) in enumerate(zip(gt_bboxes, gt_labels or ())):
            if len(boxes) != len(labels):
                raise ValueError(f"image {i} has {len(boxes)} gt_bboxes and {len(labels)} "
                                 "gt_labels")
        width = max(len(boxes) for boxes in gt_bboxes)
        boxes = _padded([b.reshape(-1, b.shape[-1])[:, :4] for b in gt_bboxes], width, 0.0)
        labels = (boxes.new_zeros(boxes.shape[:2], dtype=torch.int64) if gt_labels is None else
                  _padded([one.long() for one in gt_labels], width, 0))
        if gt_bboxes_ignore is None or max(len(one) for one in gt_bboxes_ignore) == 0:
            return cls(boxes, labels, _counts(gt_bboxes))
        regions = [one[:, :4] for one in gt_bboxes_ignore]
        return cls(boxes, labels, _counts(gt_bboxes),
                   _padded(regions, max(len(one) for one in regions), 0.0), _counts(regions))

    def of(self, gt_inds: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes ``[B, N, 4]`` and labels ``[B, N]`` of assigned gts.

        Args:
            gt_inds: [B, N], 1-based; what is not assigned (0, -1) gets an arbitrary one.
        """
        if self.boxes.shape[1] == 0:
            return (self.boxes.new_zeros((*gt_inds.shape, 4)),
                    self.labels.new_zeros(gt_inds.shape))
        index = (gt_inds - 1).clamp(min=0)
        return (self.boxes.gather(1, index[..., None].expand(-1, -1, 4)),
                self.labels.gather(1, index))
