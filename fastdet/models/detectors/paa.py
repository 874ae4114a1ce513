"""PAA (arXiv 2007.08103)."""

from ..builder import DETECTORS
from .single_stage import SingleStageDetector

__all__ = ["PAA"]


@DETECTORS.register_module()
class PAA(SingleStageDetector):
    """A backbone, an FPN and a PAAHead."""
