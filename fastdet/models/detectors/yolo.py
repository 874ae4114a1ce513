"""YOLOv3 (arXiv 1804.02767)."""

from ..builder import DETECTORS
from .single_stage import SingleStageDetector

__all__ = ["YOLOV3"]


@DETECTORS.register_module()
class YOLOV3(SingleStageDetector):
    """A backbone, a YOLOV3Neck and a YOLOV3Head."""
