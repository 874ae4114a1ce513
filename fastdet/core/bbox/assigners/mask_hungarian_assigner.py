"""One mask prediction for each gt, at the least total cost (MaskFormer, arXiv 2107.06278)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..builder import BBOX_ASSIGNERS
from ..match_costs import build_match_cost
from .assign_result import AssignResult
from .base_assigner import BaseAssigner
from .hungarian_assigner import matched

__all__ = ["MaskHungarianAssigner"]


@BBOX_ASSIGNERS.register_module()
class MaskHungarianAssigner(BaseAssigner):
    """Matches masks at the least sum of three costs.

    Args:
        cls_cost: config of the cost of the class.
        mask_cost: config of the cost of the mask.
        dice_cost: config of the dice cost of the mask.
    """

    def __init__(self, cls_cost: dict[str, Any] = dict(type="ClassificationCost", weight=1.0),
                 mask_cost: dict[str, Any] = dict(type="FocalLossCost", weight=1.0,
                                                  binary_input=True),
                 dice_cost: dict[str, Any] = dict(type="DiceCost", weight=1.0)) -> None:
        self.cls_cost = build_match_cost(cls_cost)
        self.mask_cost = build_match_cost(mask_cost)
        self.dice_cost = build_match_cost(dice_cost)

    def cost(self, cls_pred: Tensor | None, mask_pred: Tensor, gt_labels: Tensor,
             gt_mask: Tensor) -> Tensor:
        """Cost [N, G], on the device of the predictions; arguments as of :meth:`assign`."""
        cost = mask_pred.new_zeros((len(mask_pred), len(gt_labels)))
        if self.cls_cost.weight != 0 and cls_pred is not None:
            cost = cost + self.cls_cost(cls_pred, gt_labels)
        for part in (self.mask_cost, self.dice_cost):
            if part.weight != 0:
                cost = cost + part(mask_pred, gt_mask)
        return cost

    def assign(self, cls_pred: Tensor | None, mask_pred: Tensor,  # type: ignore[override]
               gt_labels: Tensor, gt_mask: Tensor, img_meta: dict[str, Any],
               gt_bboxes_ignore: Tensor | None = None, eps: float = 1e-7) -> AssignResult:
        """Assign the gts of one image.

        Args:
            cls_pred: [N, C], logits; ``None`` leaves the class out.
            mask_pred: [N, h, w], logits.
            gt_labels: [G].
            gt_mask: [G, h, w].
            img_meta: not used.
            gt_bboxes_ignore: must be ``None``.
            eps: not used.

        Raises:
            ValueError: there are ignored regions.
        """
        if gt_bboxes_ignore is not None:
            raise ValueError("MaskHungarianAssigner: every prediction is matched or background; "
                             "gt_bboxes_ignore cannot be given")
        num_gts, num = gt_labels.shape[0], mask_pred.shape[0]
        cost = (self.cost(cls_pred, mask_pred, gt_labels, gt_mask) if num_gts and num else None)
        return matched(num_gts, num, mask_pred, gt_labels, cost)
