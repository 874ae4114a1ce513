"""Detectors: networks with everything that training and detection need."""

from .atss import ATSS
from .base import BaseDetector
from .fcos import FCOS
from .gfl import GFL
from .retinanet import RetinaNet
from .rpn import RPN
from .single_stage import SingleStageDetector
from .two_stage import TwoStageDetector

__all__ = ["ATSS", "FCOS", "GFL", "RPN", "BaseDetector", "RetinaNet", "SingleStageDetector",
           "TwoStageDetector"]
