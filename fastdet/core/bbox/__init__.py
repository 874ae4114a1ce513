"""Boxes: transforms, coders, and what decides which candidate learns which gt."""

from . import (
    assigners,
    builder,
    coder,
    ground_truth,
    iou_calculators,
    match_costs,
    proposals,
    samplers,
    transforms,
)
from .assigners import *
from .builder import *
from .coder import *
from .ground_truth import *
from .iou_calculators import *
from .match_costs import *
from .proposals import *
from .samplers import *
from .transforms import *

__all__ = [*assigners.__all__, *builder.__all__, *coder.__all__, *ground_truth.__all__,
           *iou_calculators.__all__, *match_costs.__all__,
           *proposals.__all__, *samplers.__all__,
           *transforms.__all__]
