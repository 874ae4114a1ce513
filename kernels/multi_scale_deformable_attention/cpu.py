"""Multi-scale deformable attention on a CPU, tuned.

A result is a bag of pixels: up to four for each sampled place. So a level is one ``embedding_bag``
over the rows of ``value`` as they lie, without those that are outside: no sample is ever in
memory, and of a map that few queries look at, only what they see is read. Its gradient by autograd
would sort all pixels of all places and make a map for each level. Here places are sorted once by
the pixel at their upper left: each is then a bag of queries, for four neighbours alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import Operator, operator
from .reference import multi_scale_deformable_attention_reference

__all__ = ["multi_scale_deformable_attention_torch"]


class _Level(NamedTuple):
    """A level of one image, and where its places lie; ``n`` is queries by heads by points."""

    image: int
    number: int
    rows: slice  # of value
    h: int
    w: int
    inside: Tensor  # [n], less than a pixel outside
    x: Tensor  # [n] int64, the column at the left of a place; 0 if not inside
    y: Tensor
    fx: Tensor  # [n], how far a place is from there
    fy: Tensor

    def shares(self) -> Tensor:
        """``[n, 4]``: of the pixels at the upper left, upper right, lower left, lower right."""
        left, up = 1 - self.fx, 1 - self.fy
        return torch.stack([up * left, up * self.fx, self.fy * left, self.fy * self.fx], -1)

    def bags(self, heads: int, points: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels of all places that are real: which of ``[n * 4]`` they are, their rows of
        ``[h * w * heads]``, and where the bag ``[queries * heads]`` starts."""
        at = torch.arange(len(self.x)).div_(points, rounding_mode="floor").remainder_(heads)
        first = (self.y * self.w + self.x).mul_(heads).add_(at)
        rows = first[:, None] + torch.tensor([0, heads, self.w * heads, (self.w + 1) * heads])
        left, right = self.x >= 0, self.x < self.w - 1
        up, down = self.inside & (self.y >= 0), self.inside & (self.y < self.h - 1)
        real = torch.stack([up & left, up & right, down & left, down & right], -1)
        count = real.view(-1, points * 4).sum(1)
        which = real.flatten().nonzero().squeeze(1)
        return which, rows.flatten().index_select(0, which), count.cumsum(0) - count


def _levels(sizes: Tensor, starts: Tensor, places: Tensor, wide: torch.dtype) -> Iterator[_Level]:
    for level, ((h, w), start) in enumerate(zip(sizes.tolist(), starts.tolist())):
        size = torch.tensor([w, h], dtype=wide)
        for image in range(len(places)):
            place = (places[image, :, :, level].to(wide) * size - 0.5).view(-1, 2)
            inside = ((place > -1) & (place < size)).all(-1)
            place = place.where(inside.unsqueeze(-1), 0)
            low = place.floor()
            fx, fy = (place - low).unbind(-1)
            x, y = low.long().unbind(-1)
            yield _Level(image, level, slice(start, start + h * w), h, w, inside, x, y, fx, fy)


def _wide(value: Tensor, places: Tensor) -> torch.dtype:
    return torch.promote_types(torch.promote_types(value.dtype, places.dtype), torch.float32)


def _bag(rows: Tensor, index: Tensor, starts: Tensor, shares: Tensor) -> tuple[Tensor, ...]:
    """Sums, and what their gradient needs beside the arguments."""
    return torch.embedding_bag(rows, index, starts, False, 0, False, shares)


@operator("multi_scale_deformable_attention_cpu", "(Tensor value, Tensor sizes, Tensor starts, "
          "Tensor places, Tensor weights) -> Tensor")
def _forward(value: Tensor, sizes: Tensor, starts: Tensor, places: Tensor, weights: Tensor
             ) -> Tensor:
    B, _, heads, d = value.shape
    Q, P, wide = places.shape[1], places.shape[4], _wide(value, places)
    out = value.new_zeros(B, Q * heads, d, dtype=wide)
    for level in _levels(sizes, starts, places, wide):
        weight = weights[level.image, :, :, level.number].to(wide).reshape(-1, 1)
        which, index, start = level.bags(heads, P)
        shares = (level.shares() * weight).flatten().index_select(0, which)
        rows = value[level.image, level.rows].to(wide).reshape(-1, d)
        out[level.image] += _bag(rows, index, start, shares)[0]
        # A weight that is not finite shows, though its place be outside.
        out[level.image] += (0 * weight).view(-1, P).sum(1, keepdim=True)
    return out.view(B, Q, heads * d).to(value.dtype)


@_forward.register_fake
def _(value: Tensor, sizes: Tensor, starts: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], places.shape[1], value.shape[2] * value.shape[3])


def _add_to_value(dvalue: Tensor, level: _Level, grad: Tensor, shares: Tensor, points: int) -> None:
    """Add to a level ``[h * w * heads, d]`` what places with ``shares`` ``[n, 4]`` gave of it, for
    ``grad`` ``[queries * heads, d]``."""
    heads, (h, w) = len(dvalue) // max(1, level.h * level.w), (level.h, level.w)
    which = level.inside.nonzero().squeeze(1)
    row = which.div(points, rounding_mode="floor")
    # Upper left pixels may lie one outside: a map with a border, whose pixels are heads by heads.
    x, y = level.x.index_select(0, which), level.y.index_select(0, which)
    key, order = ((y + 1).mul_(w + 1).add_(x + 1).mul_(heads) + row % heads).sort()
    key, count = key.unique_consecutive(return_counts=True)
    start = count.cumsum(0) - count
    row, shares = row.index_select(0, order), shares.index_select(0, which.index_select(0, order))
    head, at = key % heads, key.div(heads, rounding_mode="floor")
    x, y = at % (w + 1) - 1, at.div(w + 1, rounding_mode="floor") - 1
    for corner, (down, right) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        share = _bag(grad, row, start, shares[:, corner].contiguous())[0]
        cy, cx = y + down, x + right
        real = ((cy >= 0) & (cy < h) & (cx >= 0) & (cx < w)).nonzero().squeeze(1)
        to = ((cy * w + cx) * heads + head).index_select(0, real)
        dvalue.index_add_(0, to, share.index_select(0, real))


@operator("multi_scale_deformable_attention_cpu_backward",
          "(Tensor grad, Tensor value, Tensor sizes, Tensor starts, Tensor places, Tensor weights, "
          "bool needs_value, bool needs_place) -> (Tensor, Tensor, Tensor)")
def _backward(grad: Tensor, value: Tensor, sizes: Tensor, starts: Tensor, places: Tensor,
              weights: Tensor, needs_value: bool, needs_place: bool
              ) -> tuple[Tensor, Tensor, Tensor]:
    B, K, heads, d = value.shape
    Q, P, wide = places.shape[1], places.shape[4], _wide(value, places)
    grad = grad.to(wide).reshape(B, Q * heads, d)
    dvalue = value.new_zeros((B, K, heads, d) if needs_value else 0, dtype=wide)
    dplaces = places.new_empty(places.shape if needs_place else 0)
    dweights = weights.new_empty(weights.shape if needs_place else 0)
    for level in _levels(sizes, starts, places, wide):
        g, shares = grad[level.image], level.shares()
        weight = weights[level.image, :, :, level.number].to(wide).reshape(-1, 1)
        if needs_value:
            _add_to_value(dvalue[level.image, level.rows].view(-1, d), level, g, shares * weight, P)
        if needs_place:
            which, index, start = level.bags(heads, P)
            rows = value[level.image, level.rows].to(wide).reshape(-1, d)
            bag = which.div(P * 4, rounding_mode="floor")
            dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
                g, rows, index, start, bag, 0)
            dots = torch.zeros(shares.numel(), dtype=wide).index_copy_(0, which, dots).view(-1, 4)
            # A gradient that is not finite shows, though the place be outside.
            dweight = (dots * shares).sum(-1).view(-1, P) + (0 * g).sum(-1, keepdim=True)
            dweights[level.image, :, :, level.number] = dweight.view(Q, heads, P)
            ul, ur, ll, lr = (dots * weight).unbind(-1)
            dx = (ur - ul) * (1 - level.fy) + (lr - ll) * level.fy
            dy = (ll - ul) * (1 - level.fx) + (lr - ur) * level.fx
            dplace = torch.stack([dx * level.w, dy * level.h], -1)
            dplace = dplace.where(level.inside.unsqueeze(-1), 0)
            dplaces[level.image, :, :, level.number] = dplace.view(Q, heads, P, 2)
    return dvalue.to(value.dtype), dplaces, dweights


@_backward.register_fake
def _(grad: Tensor, value: Tensor, sizes: Tensor, starts: Tensor, places: Tensor, weights: Tensor,
      needs_value: bool, needs_place: bool) -> tuple[Tensor, Tensor, Tensor]:
    needs = (needs_value, needs_place, needs_place)
    dvalue, dplaces, dweights = (t.new_empty(t.shape if needed else 0)
                                 for t, needed in zip((value, places, weights), needs))
    return dvalue, dplaces, dweights


def connect(forward: Operator, backward: Operator) -> None:
    """Make ``backward`` the gradient of ``forward``; the kernels' operators are alike."""
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, _, _, places, weights = ctx.needs_input_grad
        dvalue, dplaces, dweights = backward(grad, *ctx.saved_tensors, value, places or weights)
        return (dvalue if value else None, None, None, dplaces if places else None,
                dweights if weights else None)

    forward.register_autograd(autograd, setup_context=setup_context)


connect(_forward, _backward)


def multi_scale_deformable_attention_torch(
        value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor,
        sampling_locations: Tensor, attention_weights: Tensor) -> Tensor:
    """Attention over sampled places in torch: as above on a CPU, elsewhere as it is defined.

    Arguments and result as
    :func:`fastdet.kernels.multi_scale_deformable_attention.multi_scale_deformable_attention`,
    unchecked, the sizes as tensors. Differentiable once on a CPU.
    """
    form = _forward if value.device.type == "cpu" else multi_scale_deformable_attention_reference
    return form(value, spatial_shapes, level_start_index, sampling_locations, attention_weights)
