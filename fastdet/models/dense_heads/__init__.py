"""Heads that predict at every place of the feature maps."""

from .anchor_free_head import AnchorFreeHead
from .anchor_head import AnchorHead
from .atss_head import ATSSHead
from .base_dense_head import BaseDenseHead
from .cascade_rpn_head import CascadeRPNHead, StageCascadeRPNHead
from .decoupled_solo_head import DecoupledSOLOHead, DecoupledSOLOLightHead
from .deformable_detr_head import DeformableDETRHead
from .detr_head import DETRHead
from .embedding_rpn_head import EmbeddingRPNHead
from .fcos_head import FCOSHead
from .gfl_head import GFLHead
from .mask2former_head import Mask2FormerHead
from .maskformer_head import MaskFormerHead
from .reppoints_head import RepPointsHead
from .retina_head import RetinaHead
from .rpn_head import RPNHead
from .sabl_retina_head import SABLRetinaHead
from .solo_head import SOLOHead
from .solov2_head import SOLOV2Head
from .yolact_head import YOLACTHead, YOLACTProtonet, YOLACTSegmHead

__all__ = ["ATSSHead", "AnchorFreeHead", "AnchorHead", "BaseDenseHead",
           "CascadeRPNHead", "DETRHead", "DecoupledSOLOHead", "DecoupledSOLOLightHead",
           "DeformableDETRHead", "EmbeddingRPNHead", "FCOSHead", "GFLHead", "Mask2FormerHead",
           "MaskFormerHead", "RPNHead", "RepPointsHead", "RetinaHead", "SABLRetinaHead",
           "SOLOHead", "SOLOV2Head", "StageCascadeRPNHead", "YOLACTHead", "YOLACTProtonet",
           "YOLACTSegmHead"]
