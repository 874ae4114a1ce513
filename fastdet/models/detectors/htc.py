"""Hybrid Task Cascade (arXiv 1901.07518)."""

from __future__ import annotations

from typing import Any

from ..builder import DETECTORS
from .cascade_rcnn import CascadeRCNN

__all__ = ["HybridTaskCascade"]


@DETECTORS.register_module()
class HybridTaskCascade(CascadeRCNN):
    """Proposals and a HybridTaskCascadeRoIHead."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    @property
    def with_semantic(self) -> bool:
        """Whether pixels' classes are predicted."""
        return self.roi_head.with_semantic
