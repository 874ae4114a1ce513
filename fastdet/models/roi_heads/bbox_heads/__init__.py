"""Heads of classes and boxes of regions."""

from .bbox_head import BBoxHead
from .convfc_bbox_head import ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead
from .dii_head import DIIHead

__all__ = ["BBoxHead", "ConvFCBBoxHead", "DIIHead", "Shared2FCBBoxHead", "Shared4Conv1FCBBoxHead"]
