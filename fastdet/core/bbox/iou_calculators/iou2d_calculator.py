"""Overlaps of axis-aligned boxes."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdet.kernels.bbox_overlaps import bbox_overlaps

from .builder import IOU_CALCULATORS

__all__ = ["BboxOverlaps2D", "bbox_overlaps"]


@IOU_CALCULATORS.register_module()
class BboxOverlaps2D:
    """:func:`bbox_overlaps` as a component.

    Args:
        scale: boxes are divided by it first, with ``dtype='fp16'``.
        dtype: ``'fp16'`` computes in float16, to save memory; on a CPU the result is float32
            again.
    """

    def __init__(self, scale: float = 1.0, dtype: str | None = None) -> None:
        self.scale = scale
        self.dtype = dtype

    def __call__(self, bboxes1: Tensor, bboxes2: Tensor, mode: str = "iou",
                 is_aligned: bool = False) -> Tensor:
        """Overlap of boxes.

        Args:
            bboxes1: ``(..., M, 4)``, or ``(..., M, 5)`` with a score that is left out.
            bboxes2: ``(..., N, 4)`` or ``(..., N, 5)``.
            mode: ``'iou'``, ``'iof'`` or ``'giou'``.
            is_aligned: box i with box i alone.

        Returns:
            ``(..., M, N)``, or ``(..., M)`` if aligned.

        Raises:
            ValueError: boxes have neither 4 nor 5 columns.
        """
        for boxes in (bboxes1, bboxes2):
            if boxes.shape[-1] not in (0, 4, 5):
                raise ValueError("BboxOverlaps2D: boxes must have 4 columns, or 5 with a score, "
                                 f"got {tuple(boxes.shape)}")
        bboxes1, bboxes2 = bboxes1[..., :4], bboxes2[..., :4]
        if self.dtype == "fp16":
            bboxes1, bboxes2 = ((b / self.scale).half() for b in (bboxes1, bboxes2))
            overlaps = bbox_overlaps(bboxes1, bboxes2, mode, is_aligned)
            on_cpu = overlaps.device.type == "cpu" and overlaps.dtype == torch.float16
            return overlaps.float() if on_cpu else overlaps
        return bbox_overlaps(bboxes1, bboxes2, mode, is_aligned)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(scale={self.scale}, dtype={self.dtype})"
