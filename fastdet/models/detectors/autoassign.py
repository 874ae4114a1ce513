"""AutoAssign (arXiv 2007.03496)."""

from __future__ import annotations

from typing import Any

from ..builder import DETECTORS
from .single_stage import SingleStageDetector

__all__ = ["AutoAssign"]


@DETECTORS.register_module()
class AutoAssign(SingleStageDetector):
    """A backbone, an FPN and an AutoAssignHead."""

    def __init__(self, backbone: dict[str, Any], neck: dict[str, Any], bbox_head: dict[str, Any],
                 train_cfg: Any = None, test_cfg: Any = None,
                 pretrained: str | None = None) -> None:
        super().__init__(backbone, neck, bbox_head, train_cfg, test_cfg, pretrained)
