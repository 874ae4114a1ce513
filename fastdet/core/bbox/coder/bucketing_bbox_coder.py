"""Side-aware localisation (SABL, arXiv 1912.04260): which bucket a side is in, and where in it."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..builder import BBOX_CODERS
from ..transforms import bbox_rescale
from .base_bbox_coder import BaseBBoxCoder, check_pairs

__all__ = ["BucketingBBoxCoder", "bbox2bucket", "bucket2bbox", "generat_buckets"]


def _sides(proposals: Tensor, num_buckets: int) -> tuple[Tensor, Tensor]:
    """Of left, right, top and bottom: where the first bucket starts and the step inwards."""
    w, h = ((proposals[..., i + 2] - proposals[..., i]) / num_buckets for i in (0, 1))
    start = proposals[..., [0, 2, 1, 3]]
    return start, torch.stack([w, -w, h, -h], dim=-1)


def generat_buckets(proposals: Tensor, num_buckets: int,
                    scale_factor: float = 1.0) -> tuple[Tensor, ...]:
    """Centres of the buckets on each side of scaled proposals.

    Args:
        proposals: [N, 4], corners.
        num_buckets: across the whole width (or height); each side has half of them, rounded up.
        scale_factor: the proposals are scaled by this about their centres first.

    Returns:
        Width and height of a bucket, ``[N]`` each, and the centres from the left, right, top and
        bottom side inwards, ``[N, ceil(num_buckets / 2)]`` each.
    """
    start, step = _sides(bbox_rescale(proposals, scale_factor), num_buckets)
    at = 0.5 + torch.arange(math.ceil(num_buckets / 2), device=proposals.device).to(step.dtype)
    centres = start[..., None] + at * step[..., None]
    return step[:, 0], step[:, 2], *centres.unbind(1)


def bbox2bucket(proposals: Tensor, gt: Tensor, num_buckets: int, scale_factor: float,
                offset_topk: int = 2, offset_upperbound: float = 1.0,
                cls_ignore_neighbor: bool = True) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Targets of the bucket classification and of the offsets within buckets.

    Args:
        proposals: [N, 4], corners.
        gt: [N, 4], corners.
        num_buckets: across the whole width.
        scale_factor: of the proposals.
        offset_topk: how many nearest buckets learn an offset.
        offset_upperbound: but the second and later ones only where it is below this.
        cls_ignore_neighbor: the second nearest bucket is no negative.

    Returns:
        Offsets in units of a bucket, their weights, the one-hot buckets and their weights, each
        ``[N, 4 S]``: left, right, top, bottom, with S buckets a side.
    """
    proposals, gt = proposals.float(), gt.float()
    w, h, *centres = generat_buckets(proposals, num_buckets, scale_factor)
    unit = torch.stack([w, w, h, h], dim=1)[..., None]
    offsets = (torch.stack(centres, dim=1) - gt[:, [0, 2, 1, 3]][..., None]) / unit
    nearest, bucket = offsets.abs().topk(offset_topk, dim=2, largest=False, sorted=True)
    weights = torch.zeros_like(offsets)
    learns = (nearest < offset_upperbound).float()
    learns[..., 0] = 1.0
    weights.scatter_(2, bucket, learns)
    places = torch.arange(offsets.size(2), device=offsets.device)
    labels = (bucket[..., :1] == places).float()  # without one_hot's look at the values
    near = offsets.abs() < 1
    counted = ~(near & (labels == 0)) if cls_ignore_neighbor else torch.ones_like(near)
    return (offsets.flatten(1), weights.flatten(1), labels.flatten(1),
            counted.float().flatten(1))


def bucket2bbox(proposals: Tensor, cls_preds: Tensor, offset_preds: Tensor, num_buckets: int,
                scale_factor: float = 1.0, max_shape: Any = None,
                clip_border: bool = True) -> tuple[Tensor, Tensor]:
    """Boxes of bucket scores and offsets, and how sure the buckets are.

    Args:
        proposals: [N, 4], corners.
        cls_preds: [N, 4 S] (or of that size), logits of the buckets.
        offset_preds: the same shape, in units of a bucket.
        num_buckets: across the whole width.
        scale_factor: of the proposals.
        max_shape: (height, width, ...) of the image.
        clip_border: clip to the last pixel of ``max_shape``.

    Returns:
        Boxes ``[N, 4]``, and ``[N]``: the mean over the sides of the best bucket's probability,
        with the second's where it is next to it.
    """
    side = math.ceil(num_buckets / 2)
    score, bucket = F.softmax(cls_preds.view(-1, 4, side), dim=2).topk(2, dim=2)
    best = bucket[..., 0]
    start, step = _sides(bbox_rescale(proposals, scale_factor), num_buckets)
    offset = offset_preds.view(-1, 4, side).gather(2, best[..., None])[..., 0]
    # Offsets are in absolute units of a bucket; the step of the far sides is negative.
    edges = start + (0.5 + best.float()) * step - offset * step.abs()
    x1, x2, y1, y2 = edges.unbind(1)
    if clip_border and max_shape is not None:
        x1, x2 = (x.clamp(min=0, max=max_shape[1] - 1) for x in (x1, x2))
        y1, y2 = (y.clamp(min=0, max=max_shape[0] - 1) for y in (y1, y2))
    adjacent = (bucket[..., 0] - bucket[..., 1]).abs() == 1
    sure = (score[..., 0] + score[..., 1] * adjacent.float()).mean(1)
    return torch.stack([x1, y1, x2, y2], dim=1), sure


@BBOX_CODERS.register_module()
class BucketingBBoxCoder(BaseBBoxCoder):
    """The boxes of SABL.

    Args:
        num_buckets: across the whole width.
        scale_factor: of the proposals.
        offset_topk: how many nearest buckets learn an offset.
        offset_upperbound: but the second and later ones only where it is below this.
        cls_ignore_neighbor: the second nearest bucket is no negative.
        clip_border: decoded boxes are clipped to the image.
    """

    def __init__(self, num_buckets: int, scale_factor: float, offset_topk: int = 2,
                 offset_upperbound: float = 1.0, cls_ignore_neighbor: bool = True,
                 clip_border: bool = True) -> None:
        super().__init__()
        self.num_buckets = num_buckets
        self.scale_factor = scale_factor
        self.offset_topk = offset_topk
        self.offset_upperbound = offset_upperbound
        self.cls_ignore_neighbor = cls_ignore_neighbor
        self.clip_border = clip_border

    def encode(self, bboxes: Tensor, gt_bboxes: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Targets of proposals [N, 4] and boxes [N, 4]; see :func:`bbox2bucket`."""
        check_pairs(self, bboxes, gt_bboxes)
        return bbox2bucket(bboxes, gt_bboxes, self.num_buckets, self.scale_factor,
                           self.offset_topk, self.offset_upperbound, self.cls_ignore_neighbor)

    def decode(self, bboxes: Tensor, pred_bboxes: tuple[Tensor, Tensor],
               max_shape: Any = None) -> tuple[Tensor, Tensor]:
        """Boxes and confidences of (bucket logits, offsets); see :func:`bucket2bbox`."""
        if len(pred_bboxes) != 2:
            raise ValueError("BucketingBBoxCoder: expected bucket logits and offsets, got "
                             f"{len(pred_bboxes)} predictions")
        return bucket2bbox(bboxes, *pred_bboxes, self.num_buckets, self.scale_factor, max_shape,
                           self.clip_border)
