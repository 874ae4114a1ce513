"""VarifocalNet (arXiv 2008.13367)."""

from ..builder import DETECTORS
from .single_stage import SingleStageDetector

__all__ = ["VFNet"]


@DETECTORS.register_module()
class VFNet(SingleStageDetector):
    """A backbone, an FPN and a VFNetHead."""
