"""Keypoint heatmaps: making their targets and reading them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdet.kernels import gaussian_targets as _op
from fastdet.kernels.gaussian_targets import centernet_targets, cornernet_targets
from fastdet.kernels.gaussian_targets.reference import gaussian_disc

__all__ = ["centernet_targets", "cornernet_targets", "gather_feat", "gaussian2D",
           "gaussian_radius", "gen_gaussian_target", "get_local_maximum", "get_topk_from_heatmap",
           "transpose_and_gather_feat"]


def gaussian2D(radius: int, sigma: float = 1, dtype: torch.dtype = torch.float32,
               device: torch.device | str = "cpu") -> Tensor:
    """A square of a two-dimensional gaussian with its peak of 1 in the middle.

    Args:
        radius: cells from the middle to a side.
        sigma: standard deviation, in cells.
        dtype: of the result, and of every step.
        device: where to make it.

    Returns:
        ``[2 radius + 1, 2 radius + 1]``; what is below the type's eps times the peak is zero.
    """
    return gaussian_disc(radius, sigma, dtype, device)


def gen_gaussian_target(heatmap: Tensor, center: Sequence[int], radius: int,
                        k: float = 1) -> Tensor:
    """Raise a heatmap to a gaussian around one keypoint, in place.

    Args:
        heatmap: [H, W] one class's map; written in place.
        center: x, y of the keypoint in cells.
        radius: of the gaussian in cells; its sigma is ``(2 radius + 1) / 6``.
        k: height of the gaussian.

    Returns:
        ``heatmap`` itself, the maximum of what it held and the gaussian.

    Raises:
        ValueError: the heatmap is not a floating [H, W] tensor, or the radius is negative.
    """
    return _op.draw_gaussian(heatmap, center, radius, k)


def gaussian_radius(det_size: Sequence[float | Tensor], min_overlap: float) -> float | Tensor:
    """Largest radius by which a box's corners may shift and keep an IoU (arXiv 1808.01244).

    Args:
        det_size: height and width of the box, numbers or tensors of one shape.
        min_overlap: the IoU that each of the three ways of shifting must keep.

    Returns:
        The radius, of the type of ``det_size``: double for numbers, per element for tensors.

    Raises:
        ValueError: the overlap is not in (0, 1], or a number of ``det_size`` is negative.
    """
    height, width = det_size
    if not 0 < min_overlap <= 1:
        raise ValueError(f"min_overlap must lie in (0, 1], got {min_overlap!r}")
    if any(not isinstance(side, Tensor) and not side >= 0 for side in det_size):
        raise ValueError("det_size must be a height and a width that are not negative, got "
                         f"{tuple(det_size)}")
    return _op.gaussian_radius(height, width, min_overlap)


def get_local_maximum(heat: Tensor, kernel: int = 3) -> Tensor:
    """Keep the peaks of a heatmap and set everything else to zero.

    Args:
        heat: [B, C, H, W].
        kernel: odd side of the neighbourhood, in cells.
    """
    peak = F.max_pool2d(heat, kernel, stride=1, padding=(kernel - 1) // 2)
    return heat * (peak == heat).to(heat.dtype)


def get_topk_from_heatmap(scores: Tensor, k: int = 20) -> tuple[Tensor, ...]:
    """The ``k`` highest scores over all classes and cells.

    Args:
        scores: [B, C, H, W].
        k: how many.

    Returns:
        Scores, flat cell indices (into H * W), classes, y and x, each [B, k]; y and x as float.
    """
    batch, _, height, width = scores.shape
    topk_scores, index = scores.reshape(batch, -1).topk(k)
    cell = index % (height * width)
    classes = torch.div(index, height * width, rounding_mode="floor")
    ys = torch.div(cell, width, rounding_mode="floor")
    xs = (cell % width).int().float()
    return topk_scores, cell, classes, ys, xs


def gather_feat(feat: Tensor, ind: Tensor, mask: Tensor | None = None) -> Tensor:
    """Rows of a feature list by index.

    Args:
        feat: [B, L, C].
        ind: [B, N] indices into L.
        mask: [B, N] bool; when given, only these rows, as [M, C].

    Returns:
        [B, N, C], or [M, C] with a mask.
    """
    dim = feat.shape[2]
    feat = feat.gather(1, ind.unsqueeze(2).expand(-1, -1, dim))
    return feat if mask is None else feat[mask]


def transpose_and_gather_feat(feat: Tensor, ind: Tensor) -> Tensor:
    """Features [B, C, H, W] at flat cells [B, N], as [B, N, C]."""
    batch, channels = feat.shape[:2]
    return gather_feat(feat.permute(0, 2, 3, 1).reshape(batch, -1, channels), ind)
