"""Window attention in plain torch, tuned.

Where a backward will follow, one row of windows at a time: its queries, keys, values and scores
stay in the cache from the gather of ``d``-wide rows that pads, rolls, cuts into windows and splits
into heads to the one that undoes all of it. Gathers are each other's gradients, which autograd
would turn into scatters; hence the backward by hand. Without a backward tokens are gathered whole,
and torch's fused attention takes the heads where they lie; it has no gradient for a bias.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..autograd import operator
from .reference import MASK_VALUE, standard_index

__all__ = ["window_attention_cpu"]

#: Bytes of q, k and v by windows that are made at a time where no backward will ask for them.
CACHED_BYTES = 2**20


class _Strip(NamedTuple):
    """A row of windows: its image, its place among the image's, the map's row under each of its
    ``w`` rows (past the last one where padded), and whether the map is rolled around in it."""

    image: int
    down: int
    rows: list[int]
    wraps: bool


class _Map:
    """A batch of maps of ``H x W`` tokens of ``heads`` times ``d`` channels, under windows of side
    ``w``, rolled by ``shift``."""

    def __init__(self, B: int, H: int, W: int, w: int, shift: int, heads: int) -> None:
        self.B, self.H, self.W, self.w, self.shift, self.heads = B, H, W, w, shift, heads
        self.down, self.across = -(-H // w), -(-W // w)
        late = torch.arange(w) >= w - shift
        rows, columns = late[:, None].expand(w, w).flatten(), late.repeat(w)
        #: Added to scores ``[T, T]`` of a query and a key from different sides of the border.
        self.row_mask = (rows[:, None] != rows) * MASK_VALUE
        self.column_mask = (columns[:, None] != columns) * MASK_VALUE

    def strips(self) -> Iterator[_Strip]:
        """All rows of windows, in the order of windows."""
        height = self.down * self.w
        for image in range(self.B):
            for i in range(self.down):
                first = i * self.w + self.shift
                yield _Strip(image, i, [r % height for r in range(first, first + self.w)],
                             self.shift > 0 and i == self.down - 1)

    def reads(self, parts: int) -> Tensor:
        """For windows ``[parts, across, heads, 1, w]`` of a strip the row of ``d`` numbers that
        lies there, counted from the start of the map's row; a padded one gets that of some token.
        """
        c = (torch.arange(self.across * self.w) + self.shift) % (self.across * self.w)
        c = c.clamp(max=self.W - 1).view(self.across, 1, 1, self.w) * (parts * self.heads)
        return c + torch.arange(parts * self.heads).view(parts, 1, self.heads, 1, 1)

    def writes(self, parts: int) -> Tensor:
        """For rows ``[w, W, parts, heads]`` of ``d`` numbers of a strip's part of the map, where
        in its windows ``[parts, across, heads, w, w]`` each lies."""
        area = self.w * self.w
        c = (torch.arange(self.W) - self.shift) % (self.across * self.w)
        c = (c // self.w * (self.heads * area) + c % self.w).view(-1, 1, 1)
        part = torch.arange(parts).view(-1, 1) * (self.across * self.heads * area)
        return torch.arange(self.w).view(-1, 1, 1, 1) * self.w + (
            c + (part + torch.arange(self.heads) * area))

    def cut(self, x: Tensor, strip: _Strip, reads: Tensor, pad: Tensor) -> Tensor:
        """``[parts, across * heads, T, d]`` of a strip of ``x`` ``[B, H * W, parts * heads * d]``,
        ``pad`` ``[parts * heads * d]`` where padded."""
        parts = len(reads)
        per_row = self.W * parts * self.heads
        rows = torch.tensor([(strip.image * self.H + min(r, self.H - 1)) * per_row
                             for r in strip.rows])
        out = x.reshape(-1, x.shape[2] // (parts * self.heads)).index_select(
            0, (reads + rows.view(-1, 1)).flatten())
        for padded in self.pads(out, strip):
            padded.copy_(pad.view(parts, 1, self.heads, 1, -1))
        return out.view(parts, self.across * self.heads, self.w * self.w, -1)

    def pads(self, x: Tensor, strip: _Strip) -> Iterator[Tensor]:
        """Views ``[parts, n, heads, w, d]`` of what is padded in windows ``x`` of a strip. A token
        may lie in two of them."""
        x = x.view(-1, self.across, self.heads, self.w, self.w, x.shape[-1])
        for c in range(self.W, self.across * self.w):
            c = (c - self.shift) % (self.across * self.w)
            yield x[:, c // self.w:c // self.w + 1, :, :, c % self.w]
        for k, r in enumerate(strip.rows):
            if r >= self.H:
                yield x[:, :, :, k]

    def paste(self, x: Tensor, strip: _Strip, writes: Tensor, out: Tensor) -> None:
        """Put windows ``x`` ``[parts, across * heads, T, d]`` back into a map ``out``
        ``[B, H * W, parts * heads * d]``."""
        x = x.view(-1, x.shape[-1])
        # The strip's rows of the map are one run, or two where the map is rolled around.
        second = strip.rows.index(0) if 0 in strip.rows else 0
        for start, stop in ((0, second), (second, self.w)):
            rows = [r for r in strip.rows[start:stop] if r < self.H]
            if rows:
                to = out[strip.image, rows[0] * self.W:(rows[-1] + 1) * self.W]
                torch.index_select(x, 0, writes[start:start + len(rows)].flatten(),
                                   out=to.view(-1, x.shape[1]))

    def groups(self, bias: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Windows that share a mask: the token ``[n, T]`` at each of their places (``B * H * W``
        where padded) and what is added to their scores, ``[heads, T, T]``."""
        w, height, width = self.w, self.down * self.w, self.across * self.w
        r = (torch.arange(height) + self.shift) % height
        c = (torch.arange(width) + self.shift) % width
        token = torch.arange(self.B).view(-1, 1, 1) * (self.H * self.W) + r[:, None] * self.W + c
        token.masked_fill_((r >= self.H)[:, None] | (c >= self.W), self.B * self.H * self.W)
        token = token.view(self.B, self.down, w, self.across, w).transpose(2, 3).flatten(3)
        if not self.shift:
            yield token.flatten(0, 2), bias
            return
        yield token[:, :-1, :-1].flatten(0, 2), bias
        yield token[:, :-1, -1].flatten(0, 1), bias + self.column_mask
        yield token[:, -1, :-1].flatten(0, 1), bias + self.row_mask
        yield token[:, -1, -1], bias + torch.minimum(self.row_mask, self.column_mask)

    def add_(self, scores: Tensor, strip: _Strip, bias: Tensor) -> None:
        """Add bias and shift mask to ``scores`` ``[across, heads, T, T]`` in place."""
        scores += bias
        if not self.shift:
            return
        if strip.wraps:
            scores[:-1] += self.row_mask
            scores[-1] += torch.minimum(self.row_mask, self.column_mask)
        else:
            scores[-1] += self.column_mask


def _without_backward(qkv: Tensor, bias: Tensor, pad: Tensor, m: _Map, scale: float) -> Tensor:
    """A few windows at a time, which stay in the cache from their gather to their result."""
    tokens, area = qkv.reshape(-1, qkv.shape[2]), m.w * m.w
    c = qkv.shape[2] // 3
    # Padded places read any token and write to one row more.
    out = qkv.new_empty(len(tokens) + 1, c)
    step = max(1, CACHED_BYTES // (area * 3 * c * qkv.element_size()))
    padded = m.H % m.w or m.W % m.w
    for windows, added in m.groups(bias):
        for places in windows.split(step):
            place = places.flatten()
            x = tokens.index_select(0, place.clamp(max=len(tokens) - 1) if padded else place)
            if padded:
                x[place == len(tokens)] = pad
            q, k, v = x.view(-1, area, 3, m.heads, c // m.heads).permute(2, 0, 3, 1, 4)
            with torch.autocast("cpu", enabled=False):
                x = F.scaled_dot_product_attention(q, k, v, added[None], scale=scale)
            out.index_copy_(0, place, x.transpose(1, 2).reshape(-1, c))
    return out[:-1].view(m.B, -1, c)


# The two passes are custom ops because tracing the index arithmetic with symbolic sizes takes
# minutes, and autograd's saved tensors are outputs because a custom op can save nothing else.
@operator("window_attention_cpu", "(Tensor qkv, Tensor bias, Tensor pad, SymInt H, SymInt W, "
          "SymInt heads, SymInt w, SymInt shift, float scale, float dropout_p, bool save) "
          "-> (Tensor, Tensor, Tensor)")
def _forward(qkv: Tensor, bias: Tensor, pad: Tensor, H: int, W: int, heads: int, w: int,
             shift: int, scale: float, dropout_p: float, save: bool
             ) -> tuple[Tensor, Tensor, Tensor]:
    """The same products in the same data types as MMDetection's, fewer copies.

    Returns the result, and for the backward (with ``save``) the weights ``[B, down, across, heads,
    T, T]`` and what was kept of them.
    """
    m, area = _Map(qkv.shape[0], H, W, w, shift, heads), w * w
    wide = torch.promote_types(qkv.dtype, bias.dtype)
    keep = qkv.new_empty(0, dtype=wide)
    if not save and not dropout_p:
        out = _without_backward(qkv, bias.to(wide), pad, m, scale)
        return out, keep, keep.clone()
    reads, writes = m.reads(3), m.writes(1)
    shape = m.B, m.down, m.across, heads, area, area
    if dropout_p:  # noise as F.dropout draws it for a tensor of this shape
        keep = F.dropout(keep.new_ones(shape), dropout_p)
    p = keep.new_empty(shape if save else 0)
    out = qkv.new_empty(qkv.shape[0], H * W, qkv.shape[2] // 3)
    for strip in m.strips():
        q, k, v = m.cut(qkv, strip, reads, pad)
        q.mul_(scale)
        with torch.autocast("cpu", enabled=False):
            scores = torch.bmm(q, k.mT).view(shape[2:]).to(wide)
            m.add_(scores, strip, bias)
            weights = torch.softmax(scores, -1, out=p[strip[:2]] if save else None)
            if dropout_p:
                weights = weights * keep[strip[:2]]
            x = torch.bmm(weights.to(v.dtype).view(-1, area, area), v)
        m.paste(x, strip, writes, out)
    return out, p, keep if save else keep.new_empty(0)


@_forward.register_fake
def _(qkv: Tensor, bias: Tensor, pad: Tensor, H: int, W: int, heads: int, w: int, shift: int,
      scale: float, dropout_p: float, save: bool) -> tuple[Tensor, Tensor, Tensor]:
    b, area, c = qkv.shape[0], w * w, qkv.shape[2] // 3
    shape = b, (H + w - 1) // w, (W + w - 1) // w, heads, area, area
    wide = torch.promote_types(qkv.dtype, bias.dtype)
    p = qkv.new_empty(shape if save else 0, dtype=wide)
    return (qkv.new_empty((b, H * W, c)), p,
            torch.empty_like(p) if dropout_p and save else p.new_empty(0))


@operator("window_attention_cpu_backward", "(Tensor grad, Tensor qkv, Tensor pad, Tensor p, "
          "Tensor keep, SymInt H, SymInt W, SymInt heads, SymInt w, SymInt shift, float scale, "
          "bool needs_bias, bool needs_pad) -> (Tensor, Tensor, Tensor)")
def _backward(grad: Tensor, qkv: Tensor, pad: Tensor, p: Tensor, keep: Tensor, H: int, W: int,
              heads: int, w: int, shift: int, scale: float, needs_bias: bool, needs_pad: bool
              ) -> tuple[Tensor, Tensor, Tensor]:
    m, area = _Map(qkv.shape[0], H, W, w, shift, heads), w * w
    reads, reads_grad, writes = m.reads(3), m.reads(1), m.writes(3)
    zeros = grad.new_zeros(grad.shape[2])
    dqkv = qkv.new_empty(qkv.shape)
    dbias = p.new_zeros(p.shape[3:] if needs_bias else 0)
    dpad = qkv.new_zeros((3, heads, qkv.shape[2] // (3 * heads)) if needs_pad else 0)
    for strip in m.strips():
        q, k, v = m.cut(qkv, strip, reads, pad)
        q.mul_(scale)
        g, = m.cut(grad, strip, reads_grad, zeros)
        dx = qkv.new_empty(3, *q.shape)
        dq, dk, dv = dx
        weights = p[strip[:2]]
        with torch.autocast("cpu", enabled=False):
            kept = (weights * keep[strip[:2]] if keep.numel() else weights).to(q.dtype)
            torch.bmm(kept.view(-1, area, area).mT, g, out=dv)
            dp = torch.bmm(g, v.mT).view_as(weights).to(p.dtype)
            if keep.numel():
                dp = dp.mul_(keep[strip[:2]])
            ds = torch.ops.aten._softmax_backward_data(dp, weights, -1, p.dtype)
            if needs_bias:
                dbias += ds.sum(0)
            ds = ds.to(q.dtype).view(-1, area, area)
            torch.bmm(ds, k, out=dq)
            dq.mul_(scale)
            torch.bmm(ds.mT, q, out=dk)
        m.paste(dx, strip, writes, dqkv)
        if needs_pad:
            dq.zero_()  # no output depends on a padded query
            for padded in m.pads(dx, strip):
                dpad += padded.sum((1, 3))
                padded.zero_()
    return dqkv, dbias, dpad.flatten()


@_backward.register_fake
def _(grad: Tensor, qkv: Tensor, pad: Tensor, p: Tensor, keep: Tensor, H: int, W: int,
      heads: int, w: int, shift: int, scale: float, needs_bias: bool, needs_pad: bool
      ) -> tuple[Tensor, Tensor, Tensor]:
    return (qkv.new_empty(qkv.shape), p.new_empty(p.shape[3:] if needs_bias else 0),
            qkv.new_empty(qkv.shape[2] if needs_pad else 0))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    qkv, bias, pad, *ctx.map, _, _ = inputs
    ctx.save_for_backward(qkv, pad, *output[1:])
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.types = bias.dtype, pad.dtype


def _autograd(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    nothing = [None] * 11
    if grad is None:
        return tuple(nothing)
    _, needs_bias, needs_pad, *_ = ctx.needs_input_grad
    dqkv, dbias, dpad = _backward(grad, *ctx.saved_tensors, *ctx.map, needs_bias, needs_pad)
    return (dqkv, dbias.to(ctx.types[0]) if needs_bias else None,
            dpad.to(ctx.types[1]) if needs_pad else None, *nothing[3:])


_forward.register_autograd(_autograd, setup_context=_setup_context)


def window_attention_cpu(
        qkv: Tensor, table: Tensor, hw: tuple[int, int], *, num_heads: int, window_size: int,
        shift: int = 0, scale: float | None = None, pad_value: Tensor | None = None,
        dropout_p: float = 0.0, relative_position_index: Tensor | None = None) -> Tensor:
    """Window attention; arguments as of ``window_attention``, unchecked.

    Any floating-point type; differentiable once, in ``qkv``, ``table`` and ``pad_value``.
    """
    area = window_size * window_size
    index = relative_position_index
    if index is None:
        index = standard_index(window_size, qkv.device)
    bias = table.index_select(0, index.flatten()).view(area, area, num_heads).permute(2, 0, 1)
    pad = qkv.new_zeros(qkv.shape[2]) if pad_value is None else pad_value.to(qkv.dtype)
    scale = (qkv.shape[2] // (3 * num_heads)) ** -0.5 if scale is None else scale
    save = torch.is_grad_enabled() and (
        qkv.requires_grad or table.requires_grad or pad.requires_grad)
    return _forward(qkv, bias.contiguous(), pad, *hw, num_heads, window_size, shift, float(scale),
                    float(dropout_p), save)[0]
