"""Panoptic FPN (arXiv 1901.02446)."""

from __future__ import annotations

from ..builder import DETECTORS
from .panoptic_two_stage_segmentor import TwoStagePanopticSegmentor

__all__ = ["PanopticFPN"]


@DETECTORS.register_module()
class PanopticFPN(TwoStagePanopticSegmentor):
    """Mask R-CNN, a PanopticFPNHead and a HeuristicFusionHead."""
