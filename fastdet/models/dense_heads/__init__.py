"""Heads that predict at every place of the feature maps."""

from .anchor_free_head import AnchorFreeHead
from .anchor_head import AnchorHead
from .atss_head import ATSSHead
from .autoassign_head import AutoAssignHead
from .base_dense_head import BaseDenseHead
from .centernet_head import CenterNetHead
from .deformable_detr_head import DeformableDETRHead
from .detr_head import DETRHead
from .embedding_rpn_head import EmbeddingRPNHead
from .fcos_head import FCOSHead
from .fovea_head import FoveaHead
from .free_anchor_retina_head import FreeAnchorRetinaHead
from .fsaf_head import FSAFHead
from .gfl_head import GFLHead
from .mask2former_head import Mask2FormerHead
from .maskformer_head import MaskFormerHead
from .nasfcos_head import NASFCOSHead
from .pisa_retinanet_head import PISARetinaHead
from .pisa_ssd_head import PISASSDHead
from .retina_head import RetinaHead
from .retina_sepbn_head import RetinaSepBNHead
from .rpn_head import RPNHead
from .ssd_head import SSDHead
from .yolo_head import YOLOV3Head
from .yolof_head import YOLOFHead
from .yolox_head import YOLOXHead

__all__ = ["ATSSHead", "AnchorFreeHead", "AnchorHead", "AutoAssignHead", "BaseDenseHead",
           "CenterNetHead", "DETRHead", "DeformableDETRHead", "EmbeddingRPNHead", "FCOSHead",
           "FSAFHead", "FoveaHead", "FreeAnchorRetinaHead", "GFLHead", "Mask2FormerHead",
           "MaskFormerHead", "NASFCOSHead", "PISARetinaHead", "PISASSDHead", "RPNHead",
           "RetinaHead", "RetinaSepBNHead", "SSDHead", "YOLOFHead", "YOLOV3Head", "YOLOXHead"]
