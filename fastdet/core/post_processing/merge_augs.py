"""One result of several views of an image: test-time augmentation."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ops.nms import nms
from ..bbox.transforms import bbox_mapping_back

__all__ = ["merge_aug_bboxes", "merge_aug_masks", "merge_aug_proposals", "merge_aug_scores"]

Meta = Mapping[str, Any]

#: Axes of [..., h, w] that a flip reverses.
_FLIPPED = {"horizontal": (-1,), "vertical": (-2,), "diagonal": (-2, -1)}


def _original(boxes: Tensor, meta: Meta) -> Tensor:
    """Boxes of one view in the original image."""
    return bbox_mapping_back(boxes, meta["img_shape"], meta["scale_factor"], meta["flip"],
                             meta["flip_direction"])


def proposal_settings(cfg: Any) -> Any:
    """An RPN's test config, or if it has keys of older versions a copy with today's names."""
    if "nms" in cfg and "max_num" not in cfg and "nms_thr" not in cfg:
        return cfg
    cfg = copy.deepcopy(cfg)
    warnings.warn("In rpn_proposal or test_cfg, nms_thr has been moved to a dict named nms as "
                  "iou_threshold, and max_num has been renamed max_per_img", stacklevel=3)
    if "max_num" in cfg and cfg.setdefault("max_per_img", cfg["max_num"]) != cfg["max_num"]:
        raise ValueError(f"max_num {cfg['max_num']} and max_per_img {cfg['max_per_img']} are two "
                         "names of one setting, and differ")
    if "nms_thr" in cfg:
        known = cfg.setdefault("nms", {"type": "nms", "iou_threshold": cfg["nms_thr"]})
        if known["iou_threshold"] != cfg["nms_thr"]:
            raise ValueError(f"nms_thr {cfg['nms_thr']} and nms.iou_threshold "
                             f"{known['iou_threshold']} are two names of one setting, and differ")
    return cfg


def merge_aug_proposals(aug_proposals: Sequence[Tensor], img_metas: Sequence[Meta], cfg: Any
                        ) -> Tensor:
    """Proposals of all views of an image, suppressed together.

    Args:
        aug_proposals: of each view, ``(n, 5)`` boxes and scores.
        img_metas: of each view, with ``img_shape``, ``scale_factor``, ``flip`` and
            ``flip_direction``.
        cfg: an RPN's test config: ``nms`` and ``max_per_img``.

    Returns:
        ``(K, 5)`` in the original image, by descending score.

    Raises:
        ValueError: a setting is given by its old and its new name, and they differ.
    """
    cfg = proposal_settings(cfg)
    views = torch.cat([torch.cat([_original(one[:, :4], meta), one[:, 4:]], 1)
                       for one, meta in zip(aug_proposals, img_metas)])
    merged, _ = nms(views[:, :4].contiguous(), views[:, -1].contiguous(),
                    cfg["nms"]["iou_threshold"])
    return merged[:cfg["max_per_img"]]


def merge_aug_bboxes(aug_bboxes: Sequence[Tensor], aug_scores: Sequence[Tensor] | None,
                     img_metas: Sequence[Sequence[Meta]], rcnn_test_cfg: Any
                     ) -> Tensor | tuple[Tensor, Tensor]:
    """The mean of the boxes, and of the scores, of all views of an image.

    Args:
        aug_bboxes: of each view, ``(n, 4 C)``.
        aug_scores: of each view, ``(n, C)``, or ``None``.
        img_metas: of each view a list of one; see :func:`merge_aug_proposals`.
        rcnn_test_cfg: not used.

    Returns:
        Boxes in the original image, and scores if there are any.
    """
    boxes = torch.stack([_original(one.view(-1, 4), meta[0]).view(one.shape)
                         for one, meta in zip(aug_bboxes, img_metas)]).mean(0)
    return boxes if aug_scores is None else (boxes, torch.stack(list(aug_scores)).mean(0))


def merge_aug_scores(aug_scores: Sequence[Tensor] | Sequence[np.ndarray]) -> Tensor | np.ndarray:
    """The mean of the scores of all views, tensors or arrays."""
    if isinstance(aug_scores[0], Tensor):
        return torch.stack([torch.as_tensor(one) for one in aug_scores]).mean(0)
    return np.mean(np.stack([np.asarray(one) for one in aug_scores]), axis=0)


def merge_aug_masks(aug_masks: Sequence[np.ndarray], img_metas: Sequence[Sequence[Meta]],
                    rcnn_test_cfg: Any, weights: Sequence[float] | None = None) -> np.ndarray:
    """The mean of the masks of all views, turned back.

    Args:
        aug_masks: of each view, ``(n, C, h, w)``.
        img_metas: of each view a list of one, with ``flip`` and ``flip_direction``.
        rcnn_test_cfg: not used.
        weights: of each view; equal if ``None``.

    Raises:
        ValueError: an unknown direction of a flip.
    """
    views = []
    for masks, (meta, *_) in zip(aug_masks, img_metas):
        if meta["flip"]:
            direction = meta["flip_direction"]
            if direction not in _FLIPPED:
                raise ValueError(f"merge_aug_masks: flip_direction must be one of "
                                 f"{', '.join(_FLIPPED)}, got {direction!r}")
            masks = np.flip(masks, _FLIPPED[direction])
        views.append(masks)
    return np.average(np.stack(views), axis=0, weights=weights)
