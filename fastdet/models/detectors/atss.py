"""ATSS (arXiv 1912.02424)."""

from ..builder import DETECTORS
from .single_stage import SingleStageDetector

__all__ = ["ATSS"]


@DETECTORS.register_module()
class ATSS(SingleStageDetector):
    """A backbone, an FPN and an ATSSHead."""
