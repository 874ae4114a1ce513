"""CornerNet (arXiv 1808.01244), and CentripetalNet (arXiv 2003.09119) by its head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdet.core.bbox import bbox2result, bbox_mapping_back

from ..builder import DETECTORS
from .base import Meta
from .centernet import mirror_pairs
from .single_stage import SingleStageDetector

__all__ = ["CornerNet"]


@DETECTORS.register_module()
class CornerNet(SingleStageDetector):
    """Stacked hourglasses and a CornerHead or a CentripetalHead."""

    def merge_aug_results(self, aug_results: list[tuple[Tensor, Tensor]],
                          img_metas: list[list[Meta]]) -> tuple[Tensor, Tensor]:
        """Detections of all views, suppressed together.

        Args:
            aug_results: of each view boxes and scores [n, 5] and classes [n].
            img_metas: of each view, of its one image.

        Returns:
            Boxes and scores [n, 5], in pixels of the original image, and classes [n].
        """
        boxes = torch.cat([bbox_mapping_back(
            found[:, :4], metas[0]["img_shape"], metas[0]["scale_factor"], metas[0]["flip"],
            metas[0].get("flip_direction") or "horizontal")
            for (found, _), metas in zip(aug_results, img_metas)])
        scores = torch.cat([found[:, 4] for found, _ in aug_results])
        labels = torch.cat([classes for _, classes in aug_results])
        return self.bbox_head.suppressed(boxes, scores, labels, self.bbox_head.test_cfg)

    def aug_test(self, imgs: list[Tensor], img_metas: list[list[Meta]],  # type: ignore[override]
                 rescale: bool = False) -> list[Any]:
        """Results of one image from pairs of it and its mirror image.

        Args:
            imgs: of each view, [1, 3, H, W]; every second one is flipped.
            img_metas: of each view, of its one image.
            rescale: not used, as in MMDetection: results are in pixels of the original image.

        Raises:
            ValueError: the views are not such pairs.
        """
        found: list[Any] = []
        for pair, metas in mirror_pairs("CornerNet", imgs, img_metas):
            found += self.bbox_head.get_bboxes(*self.bbox_head(self.extract_feat(pair)),
                                               img_metas=metas, with_nms=False)
        return [bbox2result(*self.merge_aug_results(found, img_metas),
                            self.bbox_head.num_classes)]
