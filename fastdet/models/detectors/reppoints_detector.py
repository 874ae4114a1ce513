"""RepPoints (arXiv 1904.11490)."""

from __future__ import annotations

from ..builder import DETECTORS
from .single_stage import SingleStageDetector

__all__ = ["RepPointsDetector"]


@DETECTORS.register_module()
class RepPointsDetector(SingleStageDetector):
    """A backbone, a neck and a RepPointsHead."""
