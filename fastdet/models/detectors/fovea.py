"""FoveaBox (arXiv 1904.03797)."""

from ..builder import DETECTORS
from .single_stage import SingleStageDetector

__all__ = ["FOVEA"]


@DETECTORS.register_module()
class FOVEA(SingleStageDetector):
    """A backbone, an FPN and a FoveaHead."""
