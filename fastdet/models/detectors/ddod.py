"""DDOD (arXiv 2107.02963)."""

from ..builder import DETECTORS
from .single_stage import SingleStageDetector

__all__ = ["DDOD"]


@DETECTORS.register_module()
class DDOD(SingleStageDetector):
    """A backbone, an FPN and a DDODHead."""
