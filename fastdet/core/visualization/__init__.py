"""Pictures of detections."""

from .image import color_val_matplotlib, imshow_det_bboxes, imshow_gt_det_bboxes
from .palette import get_palette, palette_val

__all__ = ["color_val_matplotlib", "get_palette", "imshow_det_bboxes", "imshow_gt_det_bboxes",
           "palette_val"]
