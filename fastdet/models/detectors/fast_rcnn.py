"""Fast R-CNN (arXiv 1504.08083)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..builder import DETECTORS
from .base import Meta
from .two_stage import TwoStageDetector

__all__ = ["FastRCNN"]


@DETECTORS.register_module()
class FastRCNN(TwoStageDetector):
    """A head of regions on given proposals."""

    def __init__(self, backbone: dict[str, Any], roi_head: dict[str, Any], train_cfg: Any,
                 test_cfg: Any, neck: dict[str, Any] | None = None,
                 pretrained: str | None = None, init_cfg: Any = None) -> None:
        super().__init__(backbone, neck, None, roi_head, train_cfg, test_cfg, pretrained,
                         init_cfg)

    def forward_test(self, imgs: list[Tensor], img_metas: list[list[Meta]],
                     proposals: list[Any] | None = None, **kwargs: Any) -> Any:
        """Results of a batch, or of one image from several views.

        Args:
            imgs: of each view, [B, 3, H, W].
            img_metas: of each view, the metas of its images.
            proposals: of each view, [n, 4 or 5] of each image.
            kwargs: for the test.

        Raises:
            TypeError: an argument is no list.
            ValueError: the views do not fit together.
        """
        for name, value in (("imgs", imgs), ("img_metas", img_metas), ("proposals", proposals)):
            if not isinstance(value, list):
                raise TypeError(f"{name} must be a list, one entry for each view, got "
                                f"{type(value).__name__}")
        if not len(imgs) == len(img_metas) == len(proposals or []):
            raise ValueError(f"there are {len(imgs)} views in imgs, {len(img_metas)} in img_metas "
                             f"and {len(proposals or [])} in proposals")
        return super().forward_test(imgs, img_metas, proposals=proposals, **kwargs)
