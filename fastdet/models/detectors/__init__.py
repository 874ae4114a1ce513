"""Detectors: networks with everything that training and detection need."""

from .atss import ATSS
from .autoassign import AutoAssign
from .base import BaseDetector
from .cascade_rcnn import CascadeRCNN
from .centernet import CenterNet
from .cornernet import CornerNet
from .ddod import DDOD
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
from .kd_one_stage import KnowledgeDistillationSingleStageDetector
from .lad import LAD
from .mask2former import Mask2Former
from .mask_rcnn import MaskRCNN
from .mask_scoring_rcnn import MaskScoringRCNN
from .maskformer import MaskFormer
from .nasfcos import NASFCOS
from .paa import PAA
from .panoptic_fpn import PanopticFPN
from .panoptic_two_stage_segmentor import TwoStagePanopticSegmentor
from .point_rend import PointRend
from .queryinst import QueryInst
from .reppoints_detector import RepPointsDetector
from .retinanet import RetinaNet
from .rpn import RPN
from .scnet import SCNet
from .single_stage import SingleStageDetector
from .single_stage_instance_seg import SingleStageInstanceSegmentor
from .solo import SOLO
from .solov2 import SOLOv2
from .sparse_rcnn import SparseRCNN
from .tood import TOOD
from .trident_faster_rcnn import TridentFasterRCNN
from .two_stage import TwoStageDetector
from .vfnet import VFNet
from .yolact import YOLACT
from .yolo import YOLOV3
from .yolof import YOLOF
from .yolox import YOLOX

__all__ = ["ATSS", "DDOD", "DETR", "FCOS", "FOVEA", "FSAF", "GFL", "LAD", "NASFCOS", "PAA", "RPN",
           "SOLO", "TOOD", "YOLACT", "YOLOF", "YOLOV3", "YOLOX", "AutoAssign", "BaseDetector",
           "CascadeRCNN", "CenterNet", "CornerNet", "DeformableDETR", "FastRCNN", "FasterRCNN",
           "GridRCNN", "HybridTaskCascade", "KnowledgeDistillationSingleStageDetector",
           "Mask2Former", "MaskFormer", "MaskRCNN", "MaskScoringRCNN", "PanopticFPN", "PointRend",
           "QueryInst", "RepPointsDetector", "RetinaNet", "SCNet", "SOLOv2", "SingleStageDetector",
           "SingleStageInstanceSegmentor", "SparseRCNN", "TridentFasterRCNN", "TwoStageDetector",
           "TwoStagePanopticSegmentor", "VFNet"]
