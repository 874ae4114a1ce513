"""GFL (arXiv 2006.04388)."""

from ..builder import DETECTORS
from .single_stage import SingleStageDetector

__all__ = ["GFL"]


@DETECTORS.register_module()
class GFL(SingleStageDetector):
    """A backbone, an FPN and a GFLHead."""
