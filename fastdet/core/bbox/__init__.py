"""Boxes: transforms, coders, and what decides which candidate learns which gt."""

from .assigners import AssignResult, BaseAssigner, MaxIoUAssigner
from .builder import (
    BBOX_ASSIGNERS,
    BBOX_CODERS,
    BBOX_SAMPLERS,
    build_assigner,
    build_bbox_coder,
    build_sampler,
)
from .coder import (
    BaseBBoxCoder,
    BucketingBBoxCoder,
    DeltaXYWHBBoxCoder,
    DistancePointBBoxCoder,
    LegacyDeltaXYWHBBoxCoder,
    PseudoBBoxCoder,
    TBLRBBoxCoder,
    YOLOBBoxCoder,
)
from .iou_calculators import (
    IOU_CALCULATORS,
    BboxOverlaps2D,
    bbox_overlaps,
    build_iou_calculator,
)
from .transforms import (
    bbox2distance,
    bbox2result,
    bbox2roi,
    bbox_cxcywh_to_xyxy,
    bbox_flip,
    bbox_mapping,
    bbox_mapping_back,
    bbox_rescale,
    bbox_xyxy_to_cxcywh,
    distance2bbox,
    find_inside_bboxes,
    roi2bbox,
)

__all__ = [
    "BBOX_ASSIGNERS", "BBOX_CODERS", "BBOX_SAMPLERS", "build_assigner", "build_bbox_coder",
    "build_sampler",
    "AssignResult", "BaseAssigner", "MaxIoUAssigner",
    "IOU_CALCULATORS", "BboxOverlaps2D", "bbox_overlaps", "build_iou_calculator",
    "BaseBBoxCoder", "BucketingBBoxCoder", "DeltaXYWHBBoxCoder", "DistancePointBBoxCoder",
    "LegacyDeltaXYWHBBoxCoder", "PseudoBBoxCoder", "TBLRBBoxCoder", "YOLOBBoxCoder",
    "bbox2distance", "bbox2result", "bbox2roi", "bbox_cxcywh_to_xyxy", "bbox_flip",
    "bbox_mapping", "bbox_mapping_back", "bbox_rescale", "bbox_xyxy_to_cxcywh", "distance2bbox",
    "find_inside_bboxes", "roi2bbox",
]
