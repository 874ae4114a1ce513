"""NAS-FCOS (arXiv 1906.04423)."""

from ..builder import DETECTORS
from .single_stage import SingleStageDetector

__all__ = ["NASFCOS"]


@DETECTORS.register_module()
class NASFCOS(SingleStageDetector):
    """A backbone, a NASFCOS_FPN and a NASFCOSHead."""
