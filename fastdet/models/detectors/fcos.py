"""FCOS (arXiv 1904.01355)."""

from ..builder import DETECTORS
from .single_stage import SingleStageDetector

__all__ = ["FCOS"]


@DETECTORS.register_module()
class FCOS(SingleStageDetector):
    """A backbone, an FPN and an FCOSHead."""
