"""Anchors, points and their valid flags."""

from .anchor_generator import (
    AnchorGenerator,
    LegacyAnchorGenerator,
    LegacySSDAnchorGenerator,
    SSDAnchorGenerator,
    YOLOAnchorGenerator,
)
from .builder import (
    ANCHOR_GENERATORS,
    PRIOR_GENERATORS,
    build_anchor_generator,
    build_prior_generator,
)
from .point_generator import MlvlPointGenerator, PointGenerator
from .utils import anchor_inside_flags, calc_region, images_to_levels

__all__ = [
    "ANCHOR_GENERATORS",
    "PRIOR_GENERATORS",
    "AnchorGenerator",
    "LegacyAnchorGenerator",
    "LegacySSDAnchorGenerator",
    "MlvlPointGenerator",
    "PointGenerator",
    "SSDAnchorGenerator",
    "YOLOAnchorGenerator",
    "anchor_inside_flags",
    "build_anchor_generator",
    "build_prior_generator",
    "calc_region",
    "images_to_levels",
]
