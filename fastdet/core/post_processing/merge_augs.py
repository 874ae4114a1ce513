"""One result from several views of an image."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdet.ops import nms

from ..bbox.transforms import bbox_mapping_back

__all__ = ["merge_aug_bboxes", "merge_aug_masks", "merge_aug_proposals", "merge_aug_scores"]

Meta = dict[str, Any]


def _mapped_back(boxes: Tensor, meta: Meta) -> Tensor:
    return bbox_mapping_back(boxes, meta["img_shape"], meta["scale_factor"], meta["flip"],
                             meta.get("flip_direction") or "horizontal")


def proposal_settings(cfg: Any) -> dict[str, Any]:
    """Settings of proposals in today's spelling: ``nms`` and ``max_per_img``.

    Raises:
        ValueError: an old and a new key contradict each other.
    """
    cfg = dict(cfg)
    nms_cfg = dict(cfg.get("nms") or {"type": "nms"})
    for old, new, where in (("nms_thr", "iou_threshold", nms_cfg),
                            ("max_num", "max_per_img", cfg)):
        if old in cfg:
            warnings.warn(f"{old!r} is deprecated, use {new!r}", stacklevel=3)
            value = cfg.pop(old)
            if where.setdefault(new, value) != value:
                raise ValueError(f"{old}={value} and {new}={where[new]} contradict each other; "
                                 f"give {new} alone")
    cfg["nms"] = nms_cfg
    return cfg


def merge_aug_proposals(aug_proposals: Sequence[Tensor], img_metas: Sequence[Meta],
                        cfg: Any) -> Tensor:
    """Proposals of all views, suppressed together.

    Args:
        aug_proposals: [n, 5] of each view.
        img_metas: of each view.
        cfg: ``nms`` and ``max_per_img``.

    Returns:
        [n, 5] in pixels of the original image, by descending score.
    """
    cfg = proposal_settings(cfg)
    boxes = torch.cat([_mapped_back(p[:, :4], m) for p, m in zip(aug_proposals, img_metas)])
    scores = torch.cat([p[:, -1] for p in aug_proposals])
    merged, _ = nms(boxes, scores, cfg["nms"]["iou_threshold"])
    return merged[merged[:, 4].sort(descending=True).indices[:cfg["max_per_img"]]]


def merge_aug_bboxes(aug_bboxes: Sequence[Tensor], aug_scores: Sequence[Tensor] | None,
                     img_metas: Sequence[Sequence[Meta]],
                     rcnn_test_cfg: Any) -> Tensor | tuple[Tensor, Tensor]:
    """The mean of the same boxes over all views.

    Args:
        aug_bboxes: [n, 4 C] of each view.
        aug_scores: [n, C] of each view, or ``None``.
        img_metas: of each view, of its one image.
        rcnn_test_cfg: not used.

    Returns:
        Boxes in pixels of the original image, and the mean scores where there are any.
    """
    boxes = torch.stack([_mapped_back(b, m[0]) for b, m in zip(aug_bboxes, img_metas)]).mean(0)
    return boxes if aug_scores is None else (boxes, torch.stack(list(aug_scores)).mean(0))


def merge_aug_scores(aug_scores: Sequence[Any]) -> Any:
    """The mean of scores, tensors or arrays, over all views."""
    if isinstance(aug_scores[0], Tensor):
        return torch.stack(list(aug_scores)).mean(0)
    return np.mean(aug_scores, axis=0)


def merge_aug_masks(aug_masks: Sequence[np.ndarray], img_metas: Sequence[Sequence[Meta]],
                    rcnn_test_cfg: Any, weights: Any = None) -> np.ndarray:
    """The (weighted) mean of masks over all views.

    Args:
        aug_masks: [n, C, h, w] of each view.
        img_metas: of each view, of its one image.
        rcnn_test_cfg: not used.
        weights: of each view.

    Raises:
        ValueError: a view was flipped in an unknown direction.
    """
    axes = {"horizontal": (3,), "vertical": (2,), "diagonal": (2, 3)}
    upright = []
    for masks, (meta, *_) in zip(aug_masks, img_metas):
        if meta["flip"]:
            direction = meta.get("flip_direction", "horizontal")
            if direction not in axes:
                raise ValueError(f"merge_aug_masks: unknown flip direction {direction!r}")
            masks = np.flip(masks, axes[direction])
        upright.append(masks)
    return np.average(np.stack(upright), axis=0, weights=weights)
