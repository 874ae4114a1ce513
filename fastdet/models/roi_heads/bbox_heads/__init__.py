"""Heads of classes and boxes of regions."""

from .bbox_head import BBoxHead
from .convfc_bbox_head import ConvFCBBoxHead, Shared2FCBBoxHead, Shared4Conv1FCBBoxHead
from .double_bbox_head import DoubleConvFCBBoxHead
from .sabl_head import SABLHead
from .scnet_bbox_head import SCNetBBoxHead

__all__ = ["BBoxHead", "ConvFCBBoxHead", "DoubleConvFCBBoxHead", "SABLHead", "SCNetBBoxHead",
           "Shared2FCBBoxHead", "Shared4Conv1FCBBoxHead"]
