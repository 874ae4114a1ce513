"""CenterNet (arXiv 1904.07850)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdet.core.bbox import bbox2result
from fastdet.core.utils import flip_tensor

from ..builder import DETECTORS
from .base import Meta
from .single_stage import SingleStageDetector

__all__ = ["CenterNet", "mirror_pairs"]


def mirror_pairs(name: str, imgs: list[Tensor], img_metas: list[list[Meta]]
                 ) -> list[tuple[Tensor, list[Meta]]]:
    """Views of one image in pairs of it and its mirror image, [2, 3, H, W] and two metas.

    Raises:
        ValueError: the views are not such pairs.
    """
    flips = [metas[0]["flip"] for metas in img_metas]
    if len(flips) % 2 or not all(a != b for a, b in zip(flips[0::2], flips[1::2])):
        raise ValueError(f"{name}: views must be pairs of an image and its mirror image, got "
                         f"flip={flips}")
    return [(torch.cat(imgs[i:i + 2]), [img_metas[i][0], img_metas[i + 1][0]])
            for i in range(0, len(imgs), 2)]


@DETECTORS.register_module()
class CenterNet(SingleStageDetector):
    """A backbone, a neck to one map and a CenterNetHead."""

    def merge_aug_results(self, aug_results: list[list[tuple[Tensor, Tensor]]],
                          with_nms: bool) -> tuple[Tensor, Tensor]:
        """Boxes and scores [n, 5] and classes [n] of all pairs of views, maybe suppressed."""
        found = torch.cat([boxes for one in aug_results for boxes, _ in one])
        labels = torch.cat([classes for one in aug_results for _, classes in one])
        if not with_nms:
            return found, labels
        return self.bbox_head.suppressed(found[:, :4], found[:, 4], labels,
                                         self.bbox_head.test_cfg)

    def aug_test(self, imgs: list[Tensor], img_metas: list[list[Meta]],  # type: ignore[override]
                 rescale: bool = True) -> list[Any]:
        """Results of one image from pairs of it and its mirror image, whose maps are averaged.

        Args:
            imgs: of each view, [1, 3, H, W]; every second one is flipped.
            img_metas: of each view, of its one image.
            rescale: in pixels of the original image.

        Raises:
            ValueError: the views are not such pairs.
        """
        pairs = []
        for pair, metas in mirror_pairs("CenterNet", imgs, img_metas):
            heat, size, offset = (maps[0] for maps in self.bbox_head(self.extract_feat(pair)))
            direction = metas[1]["flip_direction"]
            heat, size = ((m[:1] + flip_tensor(m[1:], direction)) / 2 for m in (heat, size))
            pairs.append(self.bbox_head.get_bboxes(
                [heat], [size], [offset[:1]], img_metas=metas[:1], rescale=rescale))
        with_nms = self.bbox_head.test_cfg.get("nms") is not None
        return [bbox2result(*self.merge_aug_results(pairs, with_nms),
                            self.bbox_head.num_classes)]
