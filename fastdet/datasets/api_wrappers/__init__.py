"""The benchmarks' own code, as MMDetection calls it."""

from .coco_api import COCO, COCOeval

__all__ = ["COCO", "COCOeval"]
