"""Dropout and stochastic depth by config."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastdet.utils import build_from_cfg

from .registry import DROPOUT_LAYERS

__all__ = ["DropPath", "Dropout", "build_dropout", "drop_path"]


def drop_path(x: Tensor, drop_prob: float = 0.0, training: bool = False) -> Tensor:
    """Zero whole samples at random and scale the others up, so that the mean stays.

    Args:
        x: ``(B, ...)``.
        drop_prob: the chance of a sample to be dropped, at least 0 and below 1.
        training: return ``x`` itself if false.

    Returns:
        A tensor of the shape of ``x``.
    """
    if drop_prob == 0.0 or not training:
        return x
    return x.div(1 - drop_prob) * _kept(x, drop_prob)


def _kept(x: Tensor, drop_prob: float) -> Tensor:
    """``(B, 1, ...)`` of zeros and ones: the samples of ``x`` that are kept."""
    draw = torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), dtype=x.dtype, device=x.device)
    return (1 - drop_prob + draw).floor()


@DROPOUT_LAYERS.register_module()
class DropPath(nn.Module):
    """Stochastic depth per sample (`arXiv 1603.09382 <https://arxiv.org/abs/1603.09382>`_).

    Args:
        drop_prob: the chance of a sample to be dropped, at least 0 and below 1.

    Raises:
        ValueError: ``drop_prob`` is out of range.
    """

    def __init__(self, drop_prob: float = 0.1) -> None:
        super().__init__()
        if not 0 <= drop_prob < 1:
            raise ValueError(f"drop_prob must be at least 0 and below 1, got {drop_prob}")
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Drop samples of ``x`` ``(B, ...)`` in train mode."""
        return drop_path(x, self.drop_prob, self.training)

    def scale(self, x: Tensor) -> Tensor | None:
        """The ``(B,)`` factors by which ``forward`` would multiply samples of ``x``, drawn alike.

        ``None`` where it would return ``x``; at least of single precision.
        """
        if self.drop_prob == 0.0 or not self.training:
            return None
        kept = _kept(x, self.drop_prob).flatten()
        return kept.to(torch.promote_types(x.dtype, torch.float32)) / (1 - self.drop_prob)


@DROPOUT_LAYERS.register_module()
class Dropout(nn.Dropout):
    """``nn.Dropout`` with its probability under the name ``drop_prob``.

    Args:
        drop_prob: the chance of an element to be zeroed.
        inplace: write into the input.
    """

    def __init__(self, drop_prob: float = 0.5, inplace: bool = False) -> None:
        super().__init__(p=drop_prob, inplace=inplace)


def build_dropout(cfg: dict[str, Any], default_args: dict[str, Any] | None = None) -> nn.Module:
    """Build a dropout layer.

    Args:
        cfg: ``type`` (``'Dropout'`` or ``'DropPath'``) and arguments of the layer.
        default_args: arguments that ``cfg`` overrides.

    Raises:
        TypeError: ``cfg`` is not a dict.
        KeyError: ``type`` is missing or unknown.
    """
    return build_from_cfg(cfg, DROPOUT_LAYERS, default_args)
