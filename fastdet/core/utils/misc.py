"""Small helpers of heads and detectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["center_of_mass", "filter_scores_and_topk", "flip_tensor", "generate_coordinate",
           "mask2ndarray", "multi_apply", "select_single_mlvl", "unmap"]


def multi_apply(func: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[list[Any], ...]:
    """Call ``func`` on each level (or image), and gather each of its results in a list.

    Args:
        func: returns a tuple.
        args: one sequence for each argument.
        kwargs: the same for every call.
    """
    each = partial(func, **kwargs) if kwargs else func
    return tuple(map(list, zip(*map(each, *args))))


def unmap(data: Tensor, count: int, inds: Tensor, fill: float = 0) -> Tensor:
    """Put ``data`` [n, ...] into the rows of ``[count, ...]`` where ``inds`` [count] is true."""
    out = data.new_full((count, *data.shape[1:]), fill)
    out[inds.bool()] = data
    return out


def mask2ndarray(mask: Any) -> np.ndarray:
    """Masks of any kind (structures, tensor, array) to an array [N, H, W].

    Raises:
        TypeError: it is none of these.
    """
    if hasattr(mask, "to_ndarray"):
        return mask.to_ndarray()
    if isinstance(mask, Tensor):
        return mask.detach().cpu().numpy()
    if isinstance(mask, np.ndarray):
        return mask
    raise TypeError(f"mask2ndarray: expected masks, a tensor or an array, got "
                    f"{type(mask).__name__}")


def flip_tensor(src_tensor: Tensor, flip_direction: str) -> Tensor:
    """Mirror a map [B, C, H, W].

    Raises:
        ValueError: the direction is unknown.
    """
    axes = {"horizontal": [3], "vertical": [2], "diagonal": [2, 3]}
    if src_tensor.dim() != 4 or flip_direction not in axes:
        raise ValueError("flip_tensor: expected [B, C, H, W] and horizontal, vertical or "
                         f"diagonal, got {list(src_tensor.shape)} and {flip_direction!r}")
    return torch.flip(src_tensor, axes[flip_direction])


def select_single_mlvl(mlvl_tensors: Sequence[Tensor], batch_id: int,
                       detach: bool = True) -> list[Tensor]:
    """One image's maps of all levels."""
    return [t[batch_id].detach() if detach else t[batch_id] for t in mlvl_tensors]


def filter_scores_and_topk(scores: Tensor, score_thr: float, topk: int,
                           results: Any = None) -> tuple[Tensor, Tensor, Tensor, Any]:
    """The highest pairs of prior and class.

    Args:
        scores: [N, C].
        score_thr: pairs must be above it.
        topk: at most so many.
        results: a tensor, a list or a dict of tensors [N, ...], of which the priors' rows are
            taken.

    Returns:
        Scores ``[k]`` in descending order, classes and priors ``[k]``, and the rows of
        ``results`` (``None`` where there are none).

    Raises:
        TypeError: ``results`` is something else.
    """
    pairs = (scores > score_thr).nonzero()
    kept, order = scores[pairs[:, 0], pairs[:, 1]].sort(descending=True)
    order = order[:topk]
    rows, labels = pairs[order].unbind(dim=1)
    if results is None:
        picked: Any = None
    elif isinstance(results, dict):
        picked = {k: v[rows] for k, v in results.items()}
    elif isinstance(results, list):
        picked = [v[rows] for v in results]
    elif isinstance(results, Tensor):
        picked = results[rows]
    else:
        raise TypeError("filter_scores_and_topk: results must be a tensor, a list or a dict, got "
                        f"{type(results).__name__}")
    return kept[:topk], labels, rows, picked


def center_of_mass(mask: Tensor, esp: float = 1e-6) -> tuple[Tensor, Tensor]:
    """Mean (y, x) of a mask [H, W]; ``esp`` keeps an empty one defined."""
    h, w = mask.shape
    total = mask.sum().float().clamp(min=esp)
    y = (mask * torch.arange(h, device=mask.device)[:, None]).sum() / total
    x = (mask * torch.arange(w, device=mask.device)).sum() / total
    return y, x


def generate_coordinate(featmap_sizes: Sequence[int], device: Any = "cuda") -> Tensor:
    """Coordinates of a map's pixels, x then y, from -1 to 1.

    Args:
        featmap_sizes: (B, ..., H, W) of the map.
        device: where to make them.

    Returns:
        [B, 2, H, W].
    """
    b, h, w = featmap_sizes[0], featmap_sizes[-2], featmap_sizes[-1]
    y, x = torch.meshgrid(torch.linspace(-1, 1, h, device=device),
                          torch.linspace(-1, 1, w, device=device), indexing="ij")
    return torch.stack([x, y]).expand(b, -1, -1, -1)
