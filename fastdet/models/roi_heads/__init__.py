"""The second stage of two-stage detectors."""

from . import bbox_heads, mask_heads, roi_extractors
from .base_roi_head import BaseRoIHead
from .bbox_heads import *  # noqa: F403
from .cascade_roi_head import CascadeRoIHead
from .mask_heads import *  # noqa: F403
from .roi_extractors import *  # noqa: F403
from .sparse_roi_head import SparseRoIHead
from .standard_roi_head import StandardRoIHead

__all__ = ["BaseRoIHead", "CascadeRoIHead", "SparseRoIHead", "StandardRoIHead"]
__all__ += [*bbox_heads.__all__, *mask_heads.__all__, *roi_extractors.__all__]
