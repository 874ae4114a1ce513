"""Heads of masks of regions."""

from .coarse_mask_head import CoarseMaskHead
from .fcn_mask_head import FCNMaskHead
from .grid_head import GridHead
from .mask_point_head import MaskPointHead
from .maskiou_head import MaskIoUHead

__all__ = ["CoarseMaskHead", "FCNMaskHead", "GridHead", "MaskIoUHead", "MaskPointHead"]
