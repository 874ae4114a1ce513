"""Detections of several receptive fields (TridentNet, arXiv 1901.01892)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.core.bbox import bbox2result
from fastdet.ops import batched_nms

from ..builder import HEADS
from .base_roi_head import Meta
from .standard_roi_head import StandardRoIHead

__all__ = ["TridentRoIHead"]


@HEADS.register_module()
class TridentRoIHead(StandardRoIHead):
    """A StandardRoIHead on an image's branches, whose detections are merged.

    Args:
        num_branch: branches of the backbone.
        test_branch_idx: the branch that is used in the test, -1 for all.
        kwargs: of ``BaseRoIHead``.
    """

    def __init__(self, num_branch: int, test_branch_idx: int, **kwargs: Any) -> None:
        self.num_branch = num_branch
        self.test_branch_idx = test_branch_idx
        super().__init__(**kwargs)

    def merge_trident_bboxes(self, trident_det_bboxes: Tensor,
                             trident_det_labels: Tensor) -> tuple[Tensor, Tensor]:
        """Detections of all branches, [n, 5] and [n], suppressed together."""
        if len(trident_det_bboxes) == 0:
            return trident_det_bboxes, trident_det_labels
        boxes, keep = batched_nms(
            trident_det_bboxes[:, :4], trident_det_bboxes[:, 4].contiguous(), trident_det_labels,
            self.test_cfg["nms"])
        most = self.test_cfg["max_per_img"]
        labels = trident_det_labels[keep]
        return (boxes[:most], labels[:most]) if most > 0 else (boxes, labels)

    def simple_test(self, x: Sequence[Tensor], proposal_list: Any,  # type: ignore[override]
                    img_metas: list[Meta], proposals: Any = None, rescale: bool = False,
                    **kwargs: Any) -> list[Any]:
        """Of each image arrays ``[n, 5]`` for each class.

        Args:
            x: feature maps of the branches.
            proposal_list: of each branch.
            img_metas: of each branch.
            proposals: not used.
            rescale: in pixels of the original image.
            kwargs: not used.
        """
        boxes, labels = self.simple_test_bboxes(x, img_metas, proposal_list, self.test_cfg,
                                                rescale=rescale)
        n = self.num_branch if self.test_branch_idx == -1 else 1
        merged = [self.merge_trident_bboxes(torch.cat(boxes[i:i + n]), torch.cat(labels[i:i + n]))
                  for i in range(0, len(img_metas), n)]
        return [bbox2result(b, c, self.bbox_head.num_classes) for b, c in merged]
