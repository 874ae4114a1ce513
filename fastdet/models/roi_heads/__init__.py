"""The second stage of two-stage detectors."""

from . import bbox_heads, mask_heads, roi_extractors, shared_heads
from .base_roi_head import BaseRoIHead
from .bbox_heads import *  # noqa: F403
from .cascade_roi_head import CascadeRoIHead
from .double_roi_head import DoubleHeadRoIHead
from .dynamic_roi_head import DynamicRoIHead
from .grid_roi_head import GridRoIHead
from .htc_roi_head import HybridTaskCascadeRoIHead
from .mask_heads import *  # noqa: F403
from .mask_scoring_roi_head import MaskScoringRoIHead
from .pisa_roi_head import PISARoIHead
from .point_rend_roi_head import PointRendRoIHead
from .roi_extractors import *  # noqa: F403
from .scnet_roi_head import SCNetRoIHead
from .shared_heads import *  # noqa: F403
from .sparse_roi_head import SparseRoIHead
from .standard_roi_head import StandardRoIHead
from .trident_roi_head import TridentRoIHead

__all__ = ["BaseRoIHead", "CascadeRoIHead", "DoubleHeadRoIHead", "DynamicRoIHead", "GridRoIHead",
           "HybridTaskCascadeRoIHead", "MaskScoringRoIHead", "PISARoIHead", "PointRendRoIHead",
           "SCNetRoIHead", "SparseRoIHead", "StandardRoIHead", "TridentRoIHead"]
__all__ += [*bbox_heads.__all__, *mask_heads.__all__, *roi_extractors.__all__]
__all__ += shared_heads.__all__
