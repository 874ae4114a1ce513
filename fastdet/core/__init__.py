"""What a detector needs around its network; of it, the priors."""

from .anchor import (
    ANCHOR_GENERATORS,
    PRIOR_GENERATORS,
    AnchorGenerator,
    LegacyAnchorGenerator,
    LegacySSDAnchorGenerator,
    MlvlPointGenerator,
    PointGenerator,
    SSDAnchorGenerator,
    YOLOAnchorGenerator,
    anchor_inside_flags,
    build_anchor_generator,
    build_prior_generator,
    calc_region,
    images_to_levels,
)

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
