"""Detectors: networks with everything that training and detection need."""

from .atss import ATSS
from .base import BaseDetector
from .cascade_rcnn import CascadeRCNN
from .fast_rcnn import FastRCNN
from .faster_rcnn import FasterRCNN
from .fcos import FCOS
from .gfl import GFL
from .grid_rcnn import GridRCNN
from .htc import HybridTaskCascade
from .mask_rcnn import MaskRCNN
from .mask_scoring_rcnn import MaskScoringRCNN
from .point_rend import PointRend
from .retinanet import RetinaNet
from .rpn import RPN
from .scnet import SCNet
from .single_stage import SingleStageDetector
from .two_stage import TwoStageDetector

__all__ = ["ATSS", "FCOS", "GFL", "RPN", "BaseDetector", "CascadeRCNN", "FastRCNN", "FasterRCNN",
           "GridRCNN", "HybridTaskCascade", "MaskRCNN", "MaskScoringRCNN", "PointRend", "RetinaNet",
           "SCNet", "SingleStageDetector", "TwoStageDetector"]
