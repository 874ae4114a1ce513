"""From the raw outputs of a dense head to padded detections, without a host sync."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastdet.kernels.nms import batched_nms_padded

__all__ = ["Candidates", "Detections", "Metas", "each", "of_images", "scale_factors",
           "suppress", "top_pairs"]

Meta = dict[str, Any]
#: A list, of each image, or one meta that all images share, however many there are. Not narrower,
#: so that a head may take lists alone.
Metas = Any


def each(img_metas: Metas) -> Sequence[Meta]:
    """The meta of each image, or the one that all share: what is made of it broadcasts."""
    return [img_metas] if isinstance(img_metas, dict) else img_metas


def of_images(img_metas: Metas, key: str) -> Any:
    """A value of each image's meta, or the one that all images share."""
    if isinstance(img_metas, dict):
        return img_metas[key]
    return [meta[key] for meta in img_metas]


def scale_factors(like: Tensor, img_metas: Metas) -> Tensor:
    """``scale_factor`` of each image [B, 1, 4], or of all [1, 1, 4], in the type of ``like``."""
    return torch.stack([like.new_tensor(m["scale_factor"]) for m in each(img_metas)])[:, None]


class Candidates(NamedTuple):
    """What is left of a batch before suppression.

    Attributes:
        boxes: [B, K, 4], corners.
        scores: [B, K].
        labels: [B, K].
        valid: [B, K], whether the score passed the threshold.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    valid: Tensor


class Detections(NamedTuple):
    """Detections of a batch, padded.

    Attributes:
        boxes: [B, K, 5], corners and score; zeros behind an image's own.
        labels: [B, K]; -1 behind an image's own.
        counts: [B], how many each image has.
    """

    boxes: Tensor
    labels: Tensor
    counts: Tensor

    def unpad(self) -> list[tuple[Tensor, Tensor]]:
        """Boxes [n, 5] and labels [n] of each image; reads the counts on the host."""
        return [(boxes[:n], labels[:n])
                for boxes, labels, n in zip(self.boxes, self.labels, self.counts.tolist())]


def top_pairs(logits: Tensor, num: int, threshold: float, use_sigmoid: bool
              ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The highest pairs of prior and class.

    The classes of the ``num`` priors whose best class is highest contain every such pair, so that
    the activation and the second choice see ``num`` rows alone.

    Args:
        logits: [B, N, C]; without ``use_sigmoid`` probabilities.
        num: at most so many pairs; all if not positive.
        threshold: pairs must be above it to be valid.
        use_sigmoid: whether to activate.

    Returns:
        Scores in descending order, classes, priors and validity, ``[B, k]`` each.
    """
    classes = logits.shape[2]
    num = num if num > 0 else logits.shape[1] * classes
    rows = logits.amax(2).topk(torch.sym_min(num, logits.shape[1]), dim=1).indices
    scores = logits.gather(1, rows[..., None].expand(-1, -1, classes))
    scores = (scores.sigmoid() if use_sigmoid else scores).flatten(1)
    valid = scores > threshold
    pair = scores.masked_fill(~valid, -1.0).topk(
        torch.sym_min(num, scores.shape[1]), dim=1).indices
    return (scores.gather(1, pair), pair % classes, rows.gather(1, pair // classes),
            valid.gather(1, pair))


def suppress(candidates: Candidates, nms: dict[str, Any], max_num: int) -> Detections:
    """Suppress within classes, and keep the best.

    Args:
        candidates: of a batch.
        nms: MMDetection's config: ``type`` (``'nms'`` alone has a padded form),
            ``iou_threshold``, ``class_agnostic``, ``offset``, ``score_threshold``, ``max_num``.
        max_num: how many detections of an image.

    Raises:
        ValueError: ``type`` is another.
    """
    if nms.get("type", "nms") != "nms":
        raise ValueError(f"padded detections are made by nms, got {nms['type']!r}")
    boxes, scores, labels, valid = candidates
    threshold = nms.get("iou_threshold", nms.get("iou_thr", 0.5))
    limit = [n for n in (max_num, nms.get("max_num", -1)) if n > 0]
    keep, counts = batched_nms_padded(
        boxes, scores, None if nms.get("class_agnostic", False) else labels, threshold,
        min(limit) if limit else -1, score_threshold=nms.get("score_threshold", 0.0),
        offset=nms.get("offset", 0), valid=valid)
    there = torch.arange(keep.shape[1], device=keep.device) < counts[:, None]
    found = torch.cat([boxes, scores[..., None]], dim=-1).gather(
        1, keep[..., None].expand(-1, -1, 5))
    return Detections(torch.where(there[..., None], found, 0.0),
                      torch.where(there, labels.gather(1, keep), -1), counts)
