"""Detectors: networks with everything that training and detection need."""

from .base import BaseDetector
from .retinanet import RetinaNet
from .rpn import RPN
from .single_stage import SingleStageDetector
from .two_stage import TwoStageDetector

__all__ = ["RPN", "BaseDetector", "RetinaNet", "SingleStageDetector", "TwoStageDetector"]
