"""Heads of semantic and panoptic segmentation."""

from . import panoptic_fusion_heads
from .base_semantic_head import BaseSemanticHead
from .panoptic_fpn_head import PanopticFPNHead
from .panoptic_fusion_heads import *  # noqa: F403

__all__ = ["BaseSemanticHead", "PanopticFPNHead"]
__all__ += panoptic_fusion_heads.__all__
