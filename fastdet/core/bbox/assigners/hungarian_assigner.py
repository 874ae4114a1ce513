"""One prediction for each gt, at the least total cost (DETR, arXiv 2005.12872)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..builder import BBOX_ASSIGNERS
from ..match_costs import build_match_cost
from ..transforms import bbox_cxcywh_to_xyxy
from .assign_result import AssignResult
from .base_assigner import BaseAssigner

__all__ = ["HungarianAssigner", "least_cost_matchings"]


def least_cost_matchings(costs: Sequence[Tensor]) -> list[Tensor]:
    """Matchings of least cost, on the CPU by SciPy: one copy to the host for all, and one back.

    Args:
        costs: [N, G] each, of any sizes.

    Returns:
        Of each matrix ``[N]`` int64: the column of a row, counted from 1, or 0.

    Raises:
        ImportError: SciPy is not installed.
        ValueError: a cost is NaN.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as e:
        raise ImportError("the Hungarian assigner needs SciPy; install it with: "
                          "pip install scipy") from e
    flat = torch.cat([cost.detach().reshape(-1) for cost in costs])
    host = flat.to(torch.promote_types(flat.dtype, torch.float32)).cpu().numpy()  # NumPy's types
    if np.isnan(host).any():
        raise ValueError("the cost of matching predictions and gts is NaN; look for NaN in the "
                         "predictions or the gts")
    found = np.zeros(sum(len(cost) for cost in costs), dtype=np.int64)
    at = row = 0
    for cost in costs:
        n, g = cost.shape
        rows, cols = linear_sum_assignment(host[at:at + n * g].reshape(n, g))
        found[row + rows] = cols + 1
        at, row = at + n * g, row + n
    inds = torch.from_numpy(found).to(costs[0].device, non_blocking=True)
    return list(inds.split([len(cost) for cost in costs]))


def matched(num_gts: int, num: int, like: Tensor, gt_labels: Tensor,
            cost: Tensor | None) -> AssignResult:
    """The result of matching by ``cost`` [N, G]; ``None`` where there is nothing to match."""
    gt_inds = like.new_full((num,), -1 if num_gts and cost is None else 0, dtype=torch.long)
    labels = torch.full_like(gt_inds, -1)
    if cost is not None:
        gt_inds = least_cost_matchings([cost])[0]
        labels = torch.where(gt_inds > 0, gt_labels[(gt_inds - 1).clamp(min=0)], -1)
    return AssignResult(num_gts, gt_inds, None, labels=labels)


@BBOX_ASSIGNERS.register_module()
class HungarianAssigner(BaseAssigner):
    """Matches boxes at the least sum of three costs.

    Args:
        cls_cost: config of the cost of the class.
        reg_cost: config of the cost of the box, on boxes in units of the image.
        iou_cost: config of the cost of the overlap, in pixels.
    """

    def __init__(self, cls_cost: dict[str, Any] = dict(type="ClassificationCost", weight=1.0),
                 reg_cost: dict[str, Any] = dict(type="BBoxL1Cost", weight=1.0),
                 iou_cost: dict[str, Any] = dict(type="IoUCost", iou_mode="giou",
                                                 weight=1.0)) -> None:
        self.cls_cost = build_match_cost(cls_cost)
        self.reg_cost = build_match_cost(reg_cost)
        self.iou_cost = build_match_cost(iou_cost)

    def cost(self, bbox_pred: Tensor, cls_pred: Tensor, gt_bboxes: Tensor, gt_labels: Tensor,
             img_shape: Any) -> Tensor:
        """Cost [N, G], on the device of the predictions."""
        h, w = img_shape[:2]
        factor = gt_bboxes.new_tensor([w, h, w, h]).unsqueeze(0)
        return (self.cls_cost(cls_pred, gt_labels)
                + self.reg_cost(bbox_pred, gt_bboxes / factor)
                + self.iou_cost(bbox_cxcywh_to_xyxy(bbox_pred) * factor, gt_bboxes))

    def assign(self, bbox_pred: Tensor, cls_pred: Tensor,  # type: ignore[override]
               gt_bboxes: Tensor, gt_labels: Tensor, img_meta: dict[str, Any],
               gt_bboxes_ignore: Tensor | None = None, eps: float = 1e-7) -> AssignResult:
        """Assign the gts of one image.

        Args:
            bbox_pred: [N, 4], centres and sizes in units of the image.
            cls_pred: [N, C], logits.
            gt_bboxes: [G, 4], corners in pixels.
            gt_labels: [G].
            img_meta: ``img_shape`` is read.
            gt_bboxes_ignore: must be ``None``.
            eps: not used.

        Raises:
            ValueError: there are ignored regions.
        """
        if gt_bboxes_ignore is not None:
            raise ValueError("HungarianAssigner: every prediction is matched or background; "
                             "gt_bboxes_ignore cannot be given")
        num_gts, num = gt_bboxes.size(0), bbox_pred.size(0)
        cost = None if num_gts == 0 or num == 0 else self.cost(
            bbox_pred, cls_pred, gt_bboxes, gt_labels, img_meta["img_shape"])
        return matched(num_gts, num, bbox_pred, gt_labels, cost)
