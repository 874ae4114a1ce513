"""FSAF (arXiv 1903.00621)."""

from ..builder import DETECTORS
from .single_stage import SingleStageDetector

__all__ = ["FSAF"]


@DETECTORS.register_module()
class FSAF(SingleStageDetector):
    """A backbone, an FPN and an FSAFHead."""
