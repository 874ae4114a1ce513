"""Losses, in files of MMDetection's names: functions, and thin modules that configs name."""

from .accuracy import Accuracy, accuracy
from .ae_loss import AssociativeEmbeddingLoss
from .balanced_l1_loss import BalancedL1Loss, balanced_l1_loss
from .cross_entropy_loss import (
    CrossEntropyLoss,
    binary_cross_entropy,
    cross_entropy,
    mask_cross_entropy,
)
from .dice_loss import DiceLoss
from .focal_loss import FocalLoss, sigmoid_focal_loss
from .gaussian_focal_loss import GaussianFocalLoss
from .gfocal_loss import DistributionFocalLoss, QualityFocalLoss
from .ghm_loss import GHMC, GHMR
from .iou_loss import (
    BoundedIoULoss,
    CIoULoss,
    DIoULoss,
    GIoULoss,
    IoULoss,
    bounded_iou_loss,
    iou_loss,
)
from .kd_loss import KnowledgeDistillationKLDivLoss
from .mse_loss import MSELoss, mse_loss
from .pisa_loss import carl_loss, isr_p
from .seesaw_loss import SeesawLoss
from .smooth_l1_loss import L1Loss, SmoothL1Loss, l1_loss, smooth_l1_loss
from .utils import reduce_loss, weight_reduce_loss, weighted_loss
from .varifocal_loss import VarifocalLoss

__all__ = [
    "Accuracy", "AssociativeEmbeddingLoss", "BalancedL1Loss", "BoundedIoULoss", "CIoULoss",
    "CrossEntropyLoss", "DIoULoss", "DiceLoss", "DistributionFocalLoss", "FocalLoss", "GHMC",
    "GHMR", "GIoULoss", "GaussianFocalLoss", "IoULoss", "KnowledgeDistillationKLDivLoss",
    "L1Loss", "MSELoss", "QualityFocalLoss", "SeesawLoss", "SmoothL1Loss", "VarifocalLoss",
    "accuracy", "balanced_l1_loss", "binary_cross_entropy", "bounded_iou_loss", "carl_loss",
    "cross_entropy", "iou_loss", "isr_p", "l1_loss", "mask_cross_entropy", "mse_loss",
    "reduce_loss", "sigmoid_focal_loss", "smooth_l1_loss", "weight_reduce_loss",
    "weighted_loss",
]
