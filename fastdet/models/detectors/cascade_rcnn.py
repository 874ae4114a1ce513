"""Cascade R-CNN (arXiv 1712.00726)."""

from __future__ import annotations

from ..builder import DETECTORS
from .two_stage import TwoStageDetector

__all__ = ["CascadeRCNN"]


@DETECTORS.register_module()
class CascadeRCNN(TwoStageDetector):
    """Proposals and a CascadeRoIHead."""
