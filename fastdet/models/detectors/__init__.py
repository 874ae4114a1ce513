"""Detectors: networks with everything that training and detection need."""

from .atss import ATSS
from .autoassign import AutoAssign
from .base import BaseDetector
from .cascade_rcnn import CascadeRCNN
from .centernet import CenterNet
from .fast_rcnn import FastRCNN
from .faster_rcnn import FasterRCNN
from .fcos import FCOS
from .fovea import FOVEA
from .fsaf import FSAF
from .gfl import GFL
from .mask_rcnn import MaskRCNN
from .nasfcos import NASFCOS
from .retinanet import RetinaNet
from .rpn import RPN
from .single_stage import SingleStageDetector
from .two_stage import TwoStageDetector
from .yolo import YOLOV3
from .yolof import YOLOF
from .yolox import YOLOX

__all__ = ["ATSS", "FCOS", "FOVEA", "FSAF", "GFL", "NASFCOS", "RPN", "YOLOF", "YOLOV3", "YOLOX",
           "AutoAssign", "BaseDetector", "CascadeRCNN", "CenterNet", "FastRCNN", "FasterRCNN",
           "MaskRCNN", "RetinaNet", "SingleStageDetector", "TwoStageDetector"]
