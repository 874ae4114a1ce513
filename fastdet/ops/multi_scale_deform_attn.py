"""Multi-scale deformable attention (`arXiv 2010.04159 <https://arxiv.org/abs/2010.04159>`_)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import constant_init, xavier_init
from fastdet.cnn.bricks.registry import ATTENTION
from fastdet.kernels.multi_scale_deformable_attention import multi_scale_deformable_attention
from fastdet.kernels.multi_scale_deformable_attention.cpu import (
    multi_scale_deformable_attention_torch,
)
from fastdet.kernels.pyramid import check_fill
from fastdet.runner import BaseModule
from fastdet.utils.deprecation import renamed

__all__ = ["MultiScaleDeformableAttention", "MultiScaleDeformableAttnFunction",
           "multi_scale_deformable_attn_pytorch"]


def multi_scale_deformable_attn_pytorch(value: Tensor, value_spatial_shapes: Tensor,
                                        sampling_locations: Tensor,
                                        attention_weights: Tensor) -> Tensor:
    """Multi-scale deformable attention in plain torch, on any device.

    Args:
        value: ``[bs, num_keys, num_heads, dim]``, the pixels of all levels.
        value_spatial_shapes: ``[num_levels, 2]``, ``(h, w)`` of every level.
        sampling_locations: ``[bs, num_queries, num_heads, num_levels, num_points, 2]`` as
            ``(x, y)``; ``[0, 1]`` spans the level.
        attention_weights: ``[bs, num_queries, num_heads, num_levels, num_points]``.

    Returns:
        ``[bs, num_queries, num_heads * dim]``.
    """
    areas = value_spatial_shapes.prod(1)
    return multi_scale_deformable_attention_torch(
        value, value_spatial_shapes, areas.cumsum(0) - areas, sampling_locations,
        attention_weights)


class MultiScaleDeformableAttnFunction:
    """Multi-scale deformable attention under the name and with the arguments of mmcv's operator."""

    @staticmethod
    def apply(value: Tensor, value_spatial_shapes: Tensor, value_level_start_index: Tensor,
              sampling_locations: Tensor, attention_weights: Tensor,
              im2col_step: int = 64) -> Tensor:
        """Attend; differentiable.

        Args:
            value: as :func:`multi_scale_deformable_attn_pytorch`, as are the others.
            value_spatial_shapes: likewise.
            value_level_start_index: ``[num_levels]``, the first key of every level.
            sampling_locations: likewise.
            attention_weights: likewise.
            im2col_step: images that mmcv takes at a time; has no effect.

        Returns:
            ``[bs, num_queries, num_heads * dim]``.

        Raises:
            ValueError: a shape, type or device does not fit.
        """
        return multi_scale_deformable_attention(value, value_spatial_shapes,
                                                value_level_start_index, sampling_locations,
                                                attention_weights)


@ATTENTION.register_module()
class MultiScaleDeformableAttention(BaseModule):
    """Attention that samples a few places of every level around a reference point.

    Args:
        embed_dims: channels.
        num_heads: number of heads.
        num_levels: number of levels of the pyramid.
        num_points: places that a query samples on a level, for each head.
        im2col_step: images that mmcv takes at a time; has no effect.
        dropout: probability of the dropout of the result, before the identity is added.
        batch_first: whether tensors are ``[batch, n, embed_dims]``, not ``[n, batch, embed_dims]``.
        norm_cfg: kept as an attribute, and not used, as in mmcv.
        init_cfg: see :class:`fastdet.runner.BaseModule`.

    Raises:
        ValueError: ``embed_dims`` is no multiple of ``num_heads``.

    Source: Deformable DETR, https://arxiv.org/abs/2010.04159
    """

    def __init__(self, embed_dims: int = 256, num_heads: int = 8, num_levels: int = 4,
                 num_points: int = 4, im2col_step: int = 64, dropout: float = 0.1,
                 batch_first: bool = False, norm_cfg: dict[str, Any] | None = None,
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        if num_heads < 1 or embed_dims % num_heads:
            raise ValueError("embed_dims must be a multiple of num_heads, "
                             f"got embed_dims={embed_dims}, num_heads={num_heads}")
        self.norm_cfg = norm_cfg
        self.dropout = nn.Dropout(dropout)
        self.batch_first = batch_first
        self.im2col_step = im2col_step
        self.embed_dims = embed_dims
        self.num_levels = num_levels
        self.num_heads = num_heads
        self.num_points = num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dims, samples * 2)
        self.attention_weights = nn.Linear(embed_dims, samples)
        self.value_proj = nn.Linear(embed_dims, embed_dims)
        self.output_proj = nn.Linear(embed_dims, embed_dims)
        self.init_weights()

    def init_weights(self) -> None:
        """Let each head look into a direction of its own, its points 1, 2, … pixels away.

        All weights are equal at first, and none of this depends on the query.
        """
        constant_init(self.sampling_offsets, 0.0)
        angles = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        ways = torch.stack([angles.cos(), angles.sin()], -1)
        ways = ways / ways.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1).view(-1, 1)
        grid = ways.view(-1, 1, 1, 2) * steps
        with torch.no_grad():
            bias = self.sampling_offsets.bias
            bias.copy_(grid.expand(-1, self.num_levels, -1, -1).reshape(-1))
        constant_init(self.attention_weights, 0.0)
        xavier_init(self.value_proj, distribution="uniform")
        xavier_init(self.output_proj, distribution="uniform")
        self._is_init = True

    @renamed(residual="identity")
    def forward(self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None,
                identity: Tensor | None = None, query_pos: Tensor | None = None,
                key_padding_mask: Tensor | None = None, reference_points: Tensor | None = None,
                spatial_shapes: Tensor | None = None, level_start_index: Tensor | None = None,
                **kwargs: Any) -> Tensor:
        """Attend, and add the identity.

        Args:
            query: ``[num_queries, bs, embed_dims]`` (batch first if ``batch_first``, as ``value``,
                ``identity`` and ``query_pos``).
            key: not used.
            value: ``[num_keys, bs, embed_dims]``, the pixels of all levels; ``query``, without its
                position, by default.
            identity: added to the result; ``query``, without its position, by default.
            query_pos: positional encoding added to the query.
            key_padding_mask: ``[bs, num_keys]``, true where a key is to be ignored.
            reference_points: ``[bs, num_queries, num_levels, 2]``, ``(x, y)``; ``[0, 1]`` spans the
                level, offsets are in its pixels. Or ``[..., 4]``, ``(cx, cy, w, h)``: offsets are
                in halves of the box, divided by ``num_points``.
            spatial_shapes: ``[num_levels, 2]``, ``(h, w)`` of every level.
            level_start_index: ``[num_levels]``, the first key of every level; by default the
                levels follow each other.
            **kwargs: not used; other attention modules of a layer may need them.

        Returns:
            A tensor of the shape of ``query``.

        Raises:
            ValueError: the levels do not fill ``value`` (not checked where their sizes are on a
                GPU), or ``reference_points`` or ``spatial_shapes`` is missing or of another shape.
        """
        if reference_points is None or spatial_shapes is None:
            missing = "reference_points" if reference_points is None else "spatial_shapes"
            raise ValueError(f"{type(self).__name__} needs {missing}, got None")
        if reference_points.shape[-1] not in (2, 4):
            raise ValueError("the last dimension of reference_points must be 2 or 4, got "
                             f"{list(reference_points.shape)}")
        if value is None:
            value = query
        if identity is None:
            identity = query
        if query_pos is not None:
            query = query + query_pos
        check_fill(spatial_shapes, value.shape[1 if self.batch_first else 0])

        # Projected as they lie in memory, transposed after: the operator takes both orders.
        samples = (self.num_heads, self.num_levels, self.num_points)
        offsets = self._by_image(self.sampling_offsets(query)).unflatten(-1, (*samples, 2))
        weights = self.attention_weights(query).unflatten(-1, (self.num_heads, -1)).softmax(-1)
        weights = self._by_image(weights).unflatten(-1, samples[1:])
        value = self._by_image(self.value_proj(value))
        if key_padding_mask is not None:
            value = value.masked_fill(key_padding_mask[..., None], 0.0)
        value = value.unflatten(-1, (self.num_heads, -1))
        centers = reference_points[:, :, None, :, None, :2]
        if reference_points.shape[-1] == 2:
            sizes = spatial_shapes.flip(-1).to(centers.dtype)
            locations = centers + offsets / sizes[:, None]
        else:
            locations = centers + (offsets / self.num_points
                                   * reference_points[:, :, None, :, None, 2:] * 0.5)
        out = multi_scale_deformable_attention(value, spatial_shapes, level_start_index, locations,
                                               weights)
        return identity + self.dropout(self._by_image(self.output_proj(out)))

    def _by_image(self, t: Tensor) -> Tensor:
        """Batch first from the order of the arguments, or back."""
        return t if self.batch_first else t.transpose(0, 1)
