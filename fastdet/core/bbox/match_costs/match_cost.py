"""What it costs to match a prediction with a gt (DETR, arXiv 2005.12872, and its successors)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..iou_calculators import bbox_overlaps
from ..transforms import bbox_cxcywh_to_xyxy, bbox_xyxy_to_cxcywh
from .builder import MATCH_COST

__all__ = ["BBoxL1Cost", "ClassificationCost", "CrossEntropyLossCost", "DiceCost",
           "FocalLossCost", "IoUCost"]


def _pairs(pred: Tensor, target: Tensor) -> Tensor:
    """Dot products [N, G] of the rows of [N, P] and [G, P]."""
    return torch.einsum("np,gp->ng", pred, target)


@MATCH_COST.register_module()
class BBoxL1Cost:
    """L1 distance of boxes.

    Args:
        weight: multiplies the cost.
        box_format: ``'xyxy'`` compares corners, ``'xywh'`` centres and sizes.
    """

    def __init__(self, weight: float = 1.0, box_format: str = "xyxy") -> None:
        if box_format not in ("xyxy", "xywh"):
            raise ValueError(f"BBoxL1Cost: box_format must be xyxy or xywh, got {box_format!r}")
        self.weight = weight
        self.box_format = box_format

    def __call__(self, bbox_pred: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Cost [N, G] of predictions [N, 4] (centres and sizes) and gts [G, 4] (corners).

        Both are in units of the image.
        """
        if self.box_format == "xywh":
            gt_bboxes = bbox_xyxy_to_cxcywh(gt_bboxes)
        else:
            bbox_pred = bbox_cxcywh_to_xyxy(bbox_pred)
        return torch.cdist(bbox_pred, gt_bboxes, p=1) * self.weight


@MATCH_COST.register_module()
class FocalLossCost:
    """Focal loss of the gt's class less that of its absence.

    Args:
        weight: multiplies the cost.
        alpha: share of the positives.
        gamma: how much easy examples are weighed down.
        eps: keeps logarithms defined.
        binary_input: predictions and gts are masks.
    """

    def __init__(self, weight: float = 1.0, alpha: float = 0.25, gamma: float = 2,
                 eps: float = 1e-12, binary_input: bool = False) -> None:
        self.weight = weight
        self.alpha = alpha
        self.gamma = gamma
        self.eps = eps
        self.binary_input = binary_input

    def __call__(self, cls_pred: Tensor, gt_labels: Tensor) -> Tensor:
        """Cost [N, G].

        Args:
            cls_pred: [N, C], logits; of masks [N, ...].
            gt_labels: [G], classes; of masks [G, ...].
        """
        p = (cls_pred.flatten(1) if self.binary_input else cls_pred).sigmoid()
        absent = -(1 - p + self.eps).log() * (1 - self.alpha) * p.pow(self.gamma)
        present = -(p + self.eps).log() * self.alpha * (1 - p).pow(self.gamma)
        if not self.binary_input:
            return (present[:, gt_labels] - absent[:, gt_labels]) * self.weight
        masks = gt_labels.flatten(1).float()
        return (_pairs(present, masks) + _pairs(absent, 1 - masks)) / p.shape[1] * self.weight


@MATCH_COST.register_module()
class ClassificationCost:
    """The softmax score of the gt's class, negative.

    Args:
        weight: multiplies the cost.
    """

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = weight

    def __call__(self, cls_pred: Tensor, gt_labels: Tensor) -> Tensor:
        """Cost [N, G] of logits [N, C] and classes [G]."""
        return -cls_pred.softmax(-1)[:, gt_labels] * self.weight


@MATCH_COST.register_module()
class IoUCost:
    """The overlap, negative.

    Args:
        iou_mode: ``'iou'`` or ``'giou'``.
        weight: multiplies the cost.
    """

    def __init__(self, iou_mode: str = "giou", weight: float = 1.0) -> None:
        self.weight = weight
        self.iou_mode = iou_mode

    def __call__(self, bboxes: Tensor, gt_bboxes: Tensor) -> Tensor:
        """Cost [N, G] of boxes [N, 4] and gts [G, 4], corners in pixels."""
        return -bbox_overlaps(bboxes, gt_bboxes, mode=self.iou_mode, is_aligned=False) * (
            self.weight)


@MATCH_COST.register_module()
class DiceCost:
    """One minus the dice coefficient of masks.

    Args:
        weight: multiplies the cost.
        pred_act: predictions are logits, to be activated here.
        eps: keeps the quotient defined for empty masks.
        naive_dice: sizes are sums, not sums of squares.
    """

    def __init__(self, weight: float = 1.0, pred_act: bool = False, eps: float = 1e-3,
                 naive_dice: bool = True) -> None:
        self.weight = weight
        self.pred_act = pred_act
        self.eps = eps
        self.naive_dice = naive_dice

    def binary_mask_dice_loss(self, mask_preds: Tensor, gt_masks: Tensor) -> Tensor:
        """Cost [N, G] of activated masks [N, ...] and gts [G, ...]."""
        pred, gt = mask_preds.flatten(1), gt_masks.flatten(1).float()
        sizes = (pred.sum(1)[:, None] + gt.sum(1)[None] if self.naive_dice else
                 pred.square().sum(1)[:, None] + gt.square().sum(1)[None])
        return 1 - (2 * _pairs(pred, gt) + self.eps) / (sizes + self.eps)

    def __call__(self, mask_preds: Tensor, gt_masks: Tensor) -> Tensor:
        """Cost [N, G] of masks [N, ...] and gts [G, ...]."""
        if self.pred_act:
            mask_preds = mask_preds.sigmoid()
        return self.binary_mask_dice_loss(mask_preds, gt_masks) * self.weight


@MATCH_COST.register_module()
class CrossEntropyLossCost:
    """Binary cross entropy of masks.

    Args:
        weight: multiplies the cost.
        use_sigmoid: must be true.
    """

    def __init__(self, weight: float = 1.0, use_sigmoid: bool = True) -> None:
        if not use_sigmoid:
            raise ValueError("CrossEntropyLossCost is defined for the sigmoid, got "
                             "use_sigmoid=False")
        self.weight = weight
        self.use_sigmoid = use_sigmoid

    def __call__(self, cls_pred: Tensor, gt_labels: Tensor) -> Tensor:
        """Cost [N, G] of logits [N, ...] and masks [G, ...]."""
        logits, masks = cls_pred.flatten(1).float(), gt_labels.flatten(1).float()
        # softplus(-x) and softplus(x) are the losses of a target of one and of zero.
        cost = _pairs(F.softplus(-logits), masks) + _pairs(F.softplus(logits), 1 - masks)
        return cost / logits.shape[1] * self.weight
