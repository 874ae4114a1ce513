"""Detectors: networks with everything that training and detection need."""

from .atss import ATSS
from .base import BaseDetector
from .cascade_rcnn import CascadeRCNN
from .centernet import CenterNet
from .fast_rcnn import FastRCNN
from .faster_rcnn import FasterRCNN
from .fcos import FCOS
from .fsaf import FSAF
from .gfl import GFL
from .mask_rcnn import MaskRCNN
from .retinanet import RetinaNet
from .rpn import RPN
from .single_stage import SingleStageDetector
from .two_stage import TwoStageDetector
from .yolo import YOLOV3
from .yolof import YOLOF
from .yolox import YOLOX

__all__ = ["ATSS", "FCOS", "FSAF", "GFL", "RPN", "YOLOF", "YOLOV3", "YOLOX", "BaseDetector",
           "CascadeRCNN", "CenterNet", "FastRCNN", "FasterRCNN", "MaskRCNN", "RetinaNet",
           "SingleStageDetector", "TwoStageDetector"]
