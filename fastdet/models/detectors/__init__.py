"""Detectors: networks with everything that training and detection need."""

from .atss import ATSS
from .base import BaseDetector
from .cascade_rcnn import CascadeRCNN
from .deformable_detr import DeformableDETR
from .detr import DETR
from .fast_rcnn import FastRCNN
from .faster_rcnn import FasterRCNN
from .fcos import FCOS
from .gfl import GFL
from .mask2former import Mask2Former
from .mask_rcnn import MaskRCNN
from .maskformer import MaskFormer
from .queryinst import QueryInst
from .reppoints_detector import RepPointsDetector
from .retinanet import RetinaNet
from .rpn import RPN
from .single_stage import SingleStageDetector
from .single_stage_instance_seg import SingleStageInstanceSegmentor
from .solo import SOLO
from .solov2 import SOLOv2
from .sparse_rcnn import SparseRCNN
from .two_stage import TwoStageDetector
from .yolact import YOLACT

__all__ = ["ATSS", "DETR", "FCOS", "GFL", "RPN", "SOLO", "YOLACT", "BaseDetector", "CascadeRCNN",
           "DeformableDETR", "FastRCNN", "FasterRCNN", "Mask2Former", "MaskFormer", "MaskRCNN",
           "QueryInst", "RepPointsDetector", "RetinaNet", "SOLOv2", "SingleStageDetector",
           "SingleStageInstanceSegmentor", "SparseRCNN", "TwoStageDetector"]
