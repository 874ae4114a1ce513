"""Match costs of DETR-like detectors."""

from .builder import MATCH_COST, build_match_cost
from .match_cost import (
    BBoxL1Cost,
    ClassificationCost,
    CrossEntropyLossCost,
    DiceCost,
    FocalLossCost,
    IoUCost,
)

__all__ = ["MATCH_COST", "BBoxL1Cost", "ClassificationCost", "CrossEntropyLossCost", "DiceCost",
           "FocalLossCost", "IoUCost", "build_match_cost"]
