"""Positional encodings of maps, as in ``mmdet.models.utils.positional_encoding``."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn.bricks.registry import POSITIONAL_ENCODING
from fastdet.runner import BaseModule

__all__ = ["LearnedPositionalEncoding", "SinePositionalEncoding"]


@POSITIONAL_ENCODING.register_module()
class SinePositionalEncoding(BaseModule):
    """Sines and cosines of a place's row and column, counted among the valid places.

    Args:
        num_feats: channels for the row, and as many for the column; even.
        temperature: ratio of the longest wave to the shortest.
        normalize: whether to divide rows and columns by their number and multiply by ``scale``.
        scale: what the last row and column become with ``normalize``.
        eps: added to the divisor.
        offset: added to rows and columns, which are counted from 1, with ``normalize``.
        init_cfg: see :class:`fastdet.runner.BaseModule`.

    Raises:
        ValueError: ``num_feats`` is odd, or ``scale`` is no number with ``normalize``.

    Source: End-to-End Object Detection with Transformers, https://arxiv.org/abs/2005.12872
    """

    def __init__(self, num_feats: int, temperature: float = 10000, normalize: bool = False,
                 scale: float = 2 * math.pi, eps: float = 1e-6, offset: float = 0.0,
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        if num_feats < 2 or num_feats % 2:
            raise ValueError(f"num_feats must be even and positive, got {num_feats}")
        if normalize and not isinstance(scale, (int, float)):
            raise ValueError("scale must be a number where normalize is set, "
                             f"got {type(scale).__name__}: {scale!r}")
        self.num_feats = num_feats
        self.temperature = temperature
        self.normalize = normalize
        self.scale = scale
        self.eps = eps
        self.offset = offset

    def forward(self, mask: Tensor) -> Tensor:
        """Encode the places of maps.

        Args:
            mask: ``(bs, h, w)``, non-zero where a place is to be ignored.

        Returns:
            ``(bs, num_feats * 2, h, w)`` in float32: sine and cosine by turns, of the row, then
            of the column.
        """
        valid = mask == 0
        # Pairs of channels share a wave: one angle, both functions of it.
        pair = torch.arange(0, self.num_feats, 2, dtype=torch.float32, device=mask.device)
        wave = (self.temperature ** (pair / self.num_feats)).view(-1, 1, 1)
        counts = []
        for dim in (1, 2):
            count = valid.cumsum(dim, dtype=torch.float32)
            if self.normalize:
                last = count.narrow(dim, count.shape[dim] - 1, 1)
                count = (count + self.offset) / (last + self.eps) * self.scale
            counts.append(count)
        angle = torch.stack(counts, 1).unsqueeze(2) / wave
        return torch.stack([angle.sin(), angle.cos()], 3).flatten(1, 3)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (f"num_feats={self.num_feats}, temperature={self.temperature}, "
                f"normalize={self.normalize}, scale={self.scale}, eps={self.eps}, "
                f"offset={self.offset}")


@POSITIONAL_ENCODING.register_module()
class LearnedPositionalEncoding(BaseModule):
    """A learned embedding of a place's column beside one of its row.

    Args:
        num_feats: channels of each.
        row_num_embed: number of rows that can be told apart, the greatest height of a map.
        col_num_embed: likewise of columns.
        init_cfg: see :class:`fastdet.runner.BaseModule`.
    """

    def __init__(self, num_feats: int, row_num_embed: int = 50, col_num_embed: int = 50,
                 init_cfg: Any = {"type": "Uniform", "layer": "Embedding"}) -> None:
        super().__init__(init_cfg)
        self.row_embed = nn.Embedding(row_num_embed, num_feats)
        self.col_embed = nn.Embedding(col_num_embed, num_feats)
        self.num_feats = num_feats
        self.row_num_embed = row_num_embed
        self.col_num_embed = col_num_embed

    def forward(self, mask: Tensor) -> Tensor:
        """Encode the places of maps.

        Args:
            mask: ``(bs, h, w)``; only its shape counts.

        Returns:
            ``(bs, num_feats * 2, h, w)``: the column's channels, then the row's.

        Raises:
            ValueError: the map is higher or wider than the embeddings go.
        """
        bs, h, w = mask.shape
        if h > self.row_num_embed or w > self.col_num_embed:
            raise ValueError(f"a map of {h} x {w} has no place in {self.row_num_embed} rows and "
                             f"{self.col_num_embed} columns of embeddings")
        column = self.col_embed.weight[:w].t().unsqueeze(1).expand(-1, h, -1)
        row = self.row_embed.weight[:h].t().unsqueeze(2).expand(-1, -1, w)
        return torch.cat([column, row]).unsqueeze(0).repeat(bs, 1, 1, 1)

    def extra_repr(self) -> str:
        """The arguments, for ``repr``."""
        return (f"num_feats={self.num_feats}, row_num_embed={self.row_num_embed}, "
                f"col_num_embed={self.col_num_embed}")
