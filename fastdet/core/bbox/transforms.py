"""Boxes from one form to another: flips, scales, RoIs, distances, centres, results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["bbox2distance", "bbox2result", "bbox2roi", "bbox_cxcywh_to_xyxy", "bbox_flip",
           "bbox_mapping", "bbox_mapping_back", "bbox_rescale", "bbox_xyxy_to_cxcywh",
           "clip_boxes", "distance2bbox", "find_inside_bboxes", "padded_rois", "roi2bbox"]


def find_inside_bboxes(bboxes: Tensor, img_h: int, img_w: int) -> Tensor:
    """Which of the [N, 4] boxes have a part in the image, ``[N]`` bool."""
    return ((bboxes[:, 0] < img_w) & (bboxes[:, 2] > 0)
            & (bboxes[:, 1] < img_h) & (bboxes[:, 3] > 0))


def bbox_flip(bboxes: Tensor, img_shape: Sequence[int], direction: str = "horizontal") -> Tensor:
    """Mirror boxes with their image.

    Args:
        bboxes: [..., 4 k], corners.
        img_shape: (height, width, ...) of the image.
        direction: ``'horizontal'``, ``'vertical'`` or ``'diagonal'`` (both).

    Raises:
        ValueError: the last axis is no multiple of 4, or the direction is unknown.
    """
    if bboxes.shape[-1] % 4:
        raise ValueError(f"bbox_flip: the last axis must be a multiple of 4, got "
                         f"{list(bboxes.shape)}")
    if direction not in ("horizontal", "vertical", "diagonal"):
        raise ValueError("bbox_flip: direction must be horizontal, vertical or diagonal, got "
                         f"{direction!r}")
    flipped = bboxes.clone()
    for axis, skip, size in ((0, "vertical", img_shape[1]), (1, "horizontal", img_shape[0])):
        if direction != skip:
            flipped[..., axis::4] = size - bboxes[..., axis + 2::4]
            flipped[..., axis + 2::4] = size - bboxes[..., axis::4]
    return flipped


def bbox_mapping(bboxes: Tensor, img_shape: Sequence[int], scale_factor: Any, flip: bool,
                 flip_direction: str = "horizontal") -> Tensor:
    """Boxes of the original image in the resized, then flipped one.

    Args:
        bboxes: [N, 4].
        img_shape: (height, width, ...) after resizing.
        scale_factor: (w, h, w, h).
        flip: whether the image is flipped.
        flip_direction: as in :func:`bbox_flip`.
    """
    scaled = bboxes * bboxes.new_tensor(scale_factor)
    return bbox_flip(scaled, img_shape, flip_direction) if flip else scaled


def bbox_mapping_back(bboxes: Tensor, img_shape: Sequence[int], scale_factor: Any, flip: bool,
                      flip_direction: str = "horizontal") -> Tensor:
    """The inverse of :func:`bbox_mapping`, for boxes of any shape [..., 4]."""
    flipped = bbox_flip(bboxes, img_shape, flip_direction) if flip else bboxes
    return (flipped.view(-1, 4) / flipped.new_tensor(scale_factor)).view(bboxes.shape)


def bbox2roi(bbox_list: Sequence[Tensor]) -> Tensor:
    """Boxes of each image to RoIs.

    Args:
        bbox_list: [n, 4 or more] of each image; what follows the corners is dropped.

    Returns:
        [N, 5]: the image's index and the corners.
    """
    return torch.cat([
        torch.cat([boxes.new_full((len(boxes), 1), i), boxes[:, :4]], dim=-1) if len(boxes)
        else boxes.new_zeros((0, 5)) for i, boxes in enumerate(bbox_list)])


def padded_rois(boxes: Tensor) -> Tensor:
    """Boxes [B, K, 4 or more] of a padded batch to RoIs ``[B, K, 5]``."""
    b, k = boxes.shape[:2]
    image = torch.arange(b, device=boxes.device).to(boxes.dtype)
    return torch.cat([image[:, None, None].expand(b, k, 1), boxes[..., :4]], dim=-1)


def roi2bbox(rois: Tensor) -> list[Tensor]:
    """RoIs [N, 5 or more] to the boxes of each image that has any, in the order of the indices."""
    return [rois[rois[:, 0] == i, 1:] for i in rois[:, 0].unique(sorted=True).tolist()]


def bbox2result(bboxes: Any, labels: Any, num_classes: int) -> list[np.ndarray]:
    """Detections to one array for each class.

    Args:
        bboxes: [n, 5], corners and score, a tensor or an array.
        labels: [n], likewise.
        num_classes: how many classes.

    Returns:
        Of each class its rows; float32 ``[0, 5]`` everywhere when there are none.
    """
    if len(bboxes) == 0:
        return [np.zeros((0, 5), dtype=np.float32) for _ in range(num_classes)]
    if isinstance(bboxes, Tensor):
        bboxes, labels = bboxes.detach().cpu().numpy(), labels.detach().cpu().numpy()
    return [bboxes[labels == i] for i in range(num_classes)]


def _shared_shape(bboxes: Tensor, max_shape: Any) -> Any:
    """(height, width, ...), if that is what all images have."""
    first = max_shape[0]
    if not isinstance(first, (Sequence, np.ndarray, Tensor)):
        return max_shape
    if isinstance(first, Tensor) or bboxes.dim() != 3 or len(max_shape) != bboxes.shape[0]:
        return None
    same = all(shape[0] == first[0] and shape[1] == first[1] for shape in max_shape)
    return first if same else None


def clip_boxes(bboxes: Tensor, max_shape: Any) -> Tensor:
    """Boxes moved into their image.

    Args:
        bboxes: [..., N, 4], corners.
        max_shape: (height, width, ...), or one such for each image: [B, 2 or more] for bboxes
            [B, N, 4].

    Raises:
        ValueError: there is not one shape for each image.
    """
    if not isinstance(max_shape, Tensor):
        # One shape needs no constant on the device, and may be symbols of a compiler's.
        if (shared := _shared_shape(bboxes, max_shape)) is not None:
            h, w = shared[0], shared[1]
            x, y = bboxes[..., 0::2].clamp(0, w), bboxes[..., 1::2].clamp(0, h)
            return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)
        max_shape = bboxes.new_tensor(np.asarray(max_shape)[..., :2])
    limit = max_shape[..., :2].type_as(bboxes)
    if limit.dim() == 2 and (bboxes.dim() != 3 or len(limit) != len(bboxes)):
        raise ValueError(f"max_shape has shapes of {len(limit)} images, bboxes are "
                         f"{list(bboxes.shape)}")
    limit = torch.cat([limit, limit], dim=-1).flip(-1)
    if limit.dim() == 2:
        limit = limit.unsqueeze(-2)
    return torch.minimum(bboxes.clamp(min=0), limit)


def distance2bbox(points: Tensor, distance: Tensor, max_shape: Any = None) -> Tensor:
    """Boxes of points and their distances to the four sides.

    Args:
        points: [..., N, 2], (x, y).
        distance: [..., N, 4]: left, top, right, bottom.
        max_shape: as in :func:`clip_boxes`; ``None`` does not clip.

    Returns:
        [..., N, 4], corners.
    """
    boxes = torch.cat([points[..., :2] - distance[..., :2],
                       points[..., :2] + distance[..., 2:4]], dim=-1)
    return boxes if max_shape is None else clip_boxes(boxes, max_shape)


def bbox2distance(points: Tensor, bbox: Tensor, max_dis: float | None = None,
                  eps: float = 0.1) -> Tensor:
    """Distances of points to the four sides of boxes, the inverse of :func:`distance2bbox`.

    Args:
        points: [..., N, 2].
        bbox: [..., N, 4].
        max_dis: distances end ``eps`` below it, and at 0; ``None`` leaves them.
        eps: see ``max_dis``.
    """
    distance = torch.cat([points[..., :2] - bbox[..., :2], bbox[..., 2:4] - points[..., :2]], -1)
    return distance if max_dis is None else distance.clamp(min=0, max=max_dis - eps)


def bbox_rescale(bboxes: Tensor, scale_factor: float = 1.0) -> Tensor:
    """Scale boxes about their centres.

    Args:
        bboxes: [N, 4] corners, or [N, 5] RoIs, whose index stays.
        scale_factor: of width and height.
    """
    corners = bboxes[:, -4:]
    centre = (corners[:, :2] + corners[:, 2:]) * 0.5
    half = (corners[:, 2:] - corners[:, :2]) * scale_factor * 0.5
    return torch.cat([bboxes[:, :-4], centre - half, centre + half], dim=-1)


def bbox_cxcywh_to_xyxy(bbox: Tensor) -> Tensor:
    """Centres and sizes [..., 4] to corners."""
    centre, size = bbox[..., :2], bbox[..., 2:]
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], dim=-1)


def bbox_xyxy_to_cxcywh(bbox: Tensor) -> Tensor:
    """Corners [..., 4] to centres and sizes."""
    low, high = bbox[..., :2], bbox[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)
