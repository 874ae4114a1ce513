"""Assignment of boxes to ground truth by their largest IoU, without the matrix of IoUs."""

from .op import can_run_max_iou_assign, max_iou_assign

__all__ = ["can_run_max_iou_assign", "max_iou_assign"]
