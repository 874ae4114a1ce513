"""RetinaNet (arXiv 1708.02002)."""

from ..builder import DETECTORS
from .single_stage import SingleStageDetector

__all__ = ["RetinaNet"]


@DETECTORS.register_module()
class RetinaNet(SingleStageDetector):
    """A backbone, an FPN and a RetinaHead."""
