"""Heads of semantic and panoptic segmentation."""

from . import panoptic_fusion_heads
from .panoptic_fusion_heads import *  # noqa: F403

__all__ = [*panoptic_fusion_heads.__all__]
