"""Detectors: networks with everything that training and detection need."""

from .atss import ATSS
from .autoassign import AutoAssign
from .base import BaseDetector
from .cascade_rcnn import CascadeRCNN
from .centernet import CenterNet
from .deformable_detr import DeformableDETR
from .detr import DETR
from .fast_rcnn import FastRCNN
from .faster_rcnn import FasterRCNN
from .fcos import FCOS
from .fovea import FOVEA
from .fsaf import FSAF
from .gfl import GFL
from .grid_rcnn import GridRCNN
from .htc import HybridTaskCascade
from .mask2former import Mask2Former
from .mask_rcnn import MaskRCNN
from .mask_scoring_rcnn import MaskScoringRCNN
from .maskformer import MaskFormer
from .nasfcos import NASFCOS
from .panoptic_fpn import PanopticFPN
from .panoptic_two_stage_segmentor import TwoStagePanopticSegmentor
from .point_rend import PointRend
from .queryinst import QueryInst
from .retinanet import RetinaNet
from .rpn import RPN
from .scnet import SCNet
from .single_stage import SingleStageDetector
from .sparse_rcnn import SparseRCNN
from .trident_faster_rcnn import TridentFasterRCNN
from .two_stage import TwoStageDetector
from .yolo import YOLOV3
from .yolof import YOLOF
from .yolox import YOLOX

__all__ = ["ATSS", "DETR", "FCOS", "FOVEA", "FSAF", "GFL", "NASFCOS", "RPN", "YOLOF", "YOLOV3",
           "YOLOX", "AutoAssign", "BaseDetector", "CascadeRCNN", "CenterNet", "DeformableDETR",
           "FastRCNN", "FasterRCNN", "GridRCNN", "HybridTaskCascade", "Mask2Former", "MaskFormer",
           "MaskRCNN", "MaskScoringRCNN", "PanopticFPN", "PointRend", "QueryInst", "RetinaNet",
           "SCNet", "SingleStageDetector", "SparseRCNN", "TridentFasterRCNN", "TwoStageDetector",
           "TwoStagePanopticSegmentor"]
