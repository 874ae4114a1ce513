"""The benchmarks' own code, as MMDetection calls it."""

from .coco_api import COCO, COCOeval
from .panoptic_evaluation import pq_compute_multi_core, pq_compute_single_core

__all__ = ["COCO", "COCOeval", "pq_compute_multi_core", "pq_compute_single_core"]
