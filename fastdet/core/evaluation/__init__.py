"""Classes of data sets, and the numbers that detections are judged by."""

from .class_names import (
    cityscapes_classes,
    coco_classes,
    dataset_aliases,
    get_classes,
    imagenet_det_classes,
    imagenet_vid_classes,
    oid_challenge_classes,
    oid_v6_classes,
    voc_classes,
)
from .mean_ap import average_precision, eval_map, print_map_summary
from .panoptic_utils import INSTANCE_OFFSET
from .recall import eval_recalls, plot_iou_recall, plot_num_recall, print_recall_summary

__all__ = ["INSTANCE_OFFSET", "average_precision", "cityscapes_classes", "coco_classes",
           "dataset_aliases", "eval_map", "eval_recalls", "get_classes", "imagenet_det_classes",
           "imagenet_vid_classes", "oid_challenge_classes", "oid_v6_classes", "plot_iou_recall",
           "plot_num_recall", "print_map_summary", "print_recall_summary", "voc_classes"]
