"""Mask Scoring R-CNN (arXiv 1903.00241)."""

from __future__ import annotations

from typing import Any

from ..builder import DETECTORS
from .two_stage import TwoStageDetector

__all__ = ["MaskScoringRCNN"]


@DETECTORS.register_module()
class MaskScoringRCNN(TwoStageDetector):
    """Proposals and a MaskScoringRoIHead."""

    def __init__(self, backbone: dict[str, Any], rpn_head: dict[str, Any],
                 roi_head: dict[str, Any], train_cfg: Any, test_cfg: Any,
                 neck: dict[str, Any] | None = None, pretrained: str | None = None,
                 init_cfg: Any = None) -> None:
        super().__init__(backbone, neck, rpn_head, roi_head, train_cfg, test_cfg, pretrained,
                         init_cfg)
