"""From scored boxes and masks to detections."""

from .bbox_nms import fast_nms, multiclass_nms
from .matrix_nms import mask_matrix_nms
from .merge_augs import (
    merge_aug_bboxes,
    merge_aug_masks,
    merge_aug_proposals,
    merge_aug_scores,
)

__all__ = ["fast_nms", "mask_matrix_nms", "merge_aug_bboxes", "merge_aug_masks",
           "merge_aug_proposals", "merge_aug_scores", "multiclass_nms"]
