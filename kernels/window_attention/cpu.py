"""Window attention in plain torch, tuned.

Where a backward will follow, padding, rolling, cutting into windows and splitting into heads are
one gather of ``d``-wide rows, and all of it is undone by one more, so that the products run on
contiguous operands. Gathers are each other's gradients, which autograd would turn into scatters;
hence the backward by hand. Without a backward tokens are gathered whole, and torch's fused
attention takes the heads where they lie; it has no gradient for a bias.
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


class _Map(NamedTuple):
    """A batch of maps of ``H x W`` tokens under windows of side ``w``, rolled by ``shift``."""

    B: int
    H: int
    W: int
    w: int
    shift: int
    heads: int
    device: torch.device

    @property
    def grid(self) -> tuple[int, int]:
        """Windows down and across the padded map."""
        return -(-self.H // self.w), -(-self.W // self.w)

    def token_rows(self, parts: int) -> Tensor:
        """For rows ``[parts, B, windows, heads, T]`` of windows, the row ``[B, H * W, parts,
        heads]`` of the map that each comes from; a padded one gets that of some real token."""
        (down, across), w, dev = self.grid, self.w, self.device
        r = (torch.arange(down * w, device=dev) + self.shift) % (down * w)
        c = (torch.arange(across * w, device=dev) + self.shift) % (across * w)
        per_token = parts * self.heads
        r = r.clamp(max=self.H - 1).view(down, 1, 1, w, 1) * (self.W * per_token)
        c = c.clamp(max=self.W - 1).view(across, 1, 1, w) * per_token
        part = torch.arange(parts, device=dev).view(parts, 1, 1, 1, 1, 1, 1) * self.heads
        b = torch.arange(self.B, device=dev).view(-1, 1, 1, 1, 1, 1) * (self.H * self.W * per_token)
        head = torch.arange(self.heads, device=dev).view(-1, 1, 1)
        return (part + b + (r + (c + head))).flatten()

    def _places(self, parts: int) -> tuple[Tensor, Tensor, Tensor]:
        """Row of windows = sum of a term of (batch), one of the padded map, one of (part, head)."""
        (down, across), w, dev = self.grid, self.w, self.device
        area = w * w
        r = (torch.arange(down * w, device=dev) - self.shift) % (down * w)
        c = (torch.arange(across * w, device=dev) - self.shift) % (across * w)
        r = r // w * (across * self.heads * area) + r % w * w
        c = c // w * (self.heads * area) + c % w
        image = down * across * self.heads * area
        part = torch.arange(parts, device=dev)[:, None] * (self.B * image)
        head = part + torch.arange(self.heads, device=dev) * area
        return torch.arange(self.B, device=dev) * image, r[:, None] + c, head

    def window_rows(self, parts: int) -> Tensor:
        """For rows ``[B, H * W, parts, heads]`` of the map, where each lies in windows."""
        b, place, head = self._places(parts)
        place = place[:self.H, :self.W].reshape(-1, 1, 1) + head
        return (b.view(-1, 1, 1, 1) + place).flatten()

    def pad_rows(self, parts: int) -> Tensor:
        """``[parts * heads, padded tokens of the batch]``: where those lie in windows."""
        b, place, head = self._places(parts)
        place = torch.cat([place[:self.H, self.W:].flatten(), place[self.H:].flatten()])
        return head.reshape(-1, 1) + (b[:, None] + place).flatten()

    def pad_(self, x: Tensor, pad: Tensor) -> None:
        """Write ``pad`` ``[3C]`` into the padded tokens of ``x`` ``[3, B, windows, heads, T, d]``
        in place."""
        (down, across), w = self.grid, self.w
        x = x.view(3, self.B, down, across, self.heads, w, w, x.shape[-1])
        pad = pad.view(3, 1, 1, self.heads, 1, -1)
        for c in range(self.W, across * w):
            c = (c - self.shift) % (across * w)
            x[:, :, :, c // w, :, :, c % w] = pad
        for r in range(self.H, down * w):
            r = (r - self.shift) % (down * w)
            x[:, :, r // w, :, :, r % w] = pad

    def masks(self) -> tuple[Tensor, Tensor]:
        """Where a query and a key lie on different sides of the rolled border, ``[T, T]``: in the
        last row of windows, and in the last column. In the corner either will do."""
        late = torch.arange(self.w, device=self.device) >= self.w - self.shift
        r = late[:, None].expand(self.w, self.w).flatten()
        c = late.repeat(self.w)
        return r[:, None] != r, c[:, None] != c

    def mask_(self, scores: Tensor) -> None:
        """Add the shift mask to ``scores`` ``[B * windows, heads, T, T]`` in place."""
        rows, columns = self.masks()
        s = scores.view(self.B, *self.grid, *scores.shape[1:])
        s[:, :, -1] += columns * MASK_VALUE
        s[:, -1, :-1] += rows * MASK_VALUE
        s[:, -1, -1] += (rows & ~columns) * MASK_VALUE

    def groups(self, bias: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Windows that share a mask: the token ``[n, T]`` at each of their places (``B * H * W``
        where padded) and what is added to their scores, ``[heads, T, T]``."""
        (down, across), w, dev = self.grid, self.w, self.device
        r = (torch.arange(down * w, device=dev) + self.shift) % (down * w)
        c = (torch.arange(across * w, device=dev) + self.shift) % (across * w)
        image = torch.arange(self.B, device=dev).view(-1, 1, 1) * (self.H * self.W)
        token = image + r[:, None] * self.W + c
        token.masked_fill_((r >= self.H)[:, None] | (c >= self.W), self.B * self.H * self.W)
        token = token.view(self.B, down, w, across, w).transpose(2, 3).flatten(3)
        if not self.shift:
            yield token.flatten(0, 2), bias
            return
        rows, columns = (mask * MASK_VALUE for mask in self.masks())
        yield token[:, :-1, :-1].flatten(0, 2), bias
        yield token[:, :-1, -1].flatten(0, 1), bias + columns
        yield token[:, -1, :-1].flatten(0, 1), bias + rows
        yield token[:, -1, -1], bias + torch.minimum(rows, columns)


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
          "-> (Tensor, Tensor, Tensor, Tensor)")
def _forward(qkv: Tensor, bias: Tensor, pad: Tensor, H: int, W: int, heads: int, w: int,
             shift: int, scale: float, dropout_p: float, save: bool
             ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same products in the same data types as MMDetection's, fewer copies.

    Returns the result, and for the backward (with ``save``) q, k, v by windows, the weights, and
    what was kept of them.
    """
    m = _Map(qkv.shape[0], H, W, w, shift, heads, qkv.device)
    area, d = w * w, qkv.shape[2] // (3 * heads)
    wide = torch.promote_types(qkv.dtype, bias.dtype)
    nothing, keep = qkv.new_empty(0), qkv.new_empty(0, dtype=wide)
    if not save and not dropout_p and qkv.device.type == "cpu":
        return _without_backward(qkv, bias.to(wide), pad, m, scale), nothing, keep, keep.clone()
    x = qkv.reshape(-1, d).index_select(0, m.token_rows(3))
    m.pad_(x, pad)
    q, k, v = x.view(3, -1, area, d)
    q.mul_(scale)
    with torch.autocast(x.device.type, enabled=False):
        p = torch.bmm(q, k.mT).view(-1, heads, area, area).to(wide).add_(bias)
        if shift:
            m.mask_(p)
        torch.softmax(p, -1, out=p)
        weights = p
        if dropout_p:  # noise as F.dropout draws it for a tensor of this shape
            keep = F.dropout(torch.ones_like(p), dropout_p)
            weights = p * keep
        out = torch.bmm(weights.to(v.dtype).view(-1, area, area), v)
    if not save:
        x, p, keep = nothing, p.new_empty(0), keep.new_empty(0)
    out = out.view(-1, d).index_select(0, m.window_rows(1)).view(m.B, H * W, heads * d)
    return out, x, p, keep


@_forward.register_fake
def _(qkv: Tensor, bias: Tensor, pad: Tensor, H: int, W: int, heads: int, w: int, shift: int,
      scale: float, dropout_p: float, save: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    area, c = w * w, qkv.shape[2] // 3
    windows = qkv.shape[0] * ((H + w - 1) // w) * ((W + w - 1) // w)
    wide = torch.promote_types(qkv.dtype, bias.dtype)
    p = qkv.new_empty((windows, heads, area, area) if save else 0, dtype=wide)
    return (qkv.new_empty((qkv.shape[0], H * W, c)),
            qkv.new_empty((3 * windows * heads * area, c // heads) if save else 0), p,
            torch.empty_like(p) if dropout_p and save else p.new_empty(0))


@operator("window_attention_cpu_backward", "(Tensor grad, Tensor x, Tensor p, Tensor keep, "
          "SymInt H, SymInt W, SymInt heads, SymInt w, SymInt shift, float scale, "
          "bool needs_bias, bool needs_pad) -> (Tensor, Tensor, Tensor)")
def _backward(grad: Tensor, x: Tensor, p: Tensor, keep: Tensor, H: int, W: int, heads: int,
              w: int, shift: int, scale: float, needs_bias: bool, needs_pad: bool
              ) -> tuple[Tensor, Tensor, Tensor]:
    m = _Map(grad.shape[0], H, W, w, shift, heads, grad.device)
    area, d = w * w, x.shape[1]
    q, k, v = x.view(3, -1, area, d)
    g = grad.reshape(-1, d).index_select(0, m.token_rows(1))
    g = g.index_fill_(0, m.pad_rows(1).flatten(), 0).view(-1, area, d)
    dx = torch.empty_like(x)
    dq, dk, dv = dx.view(3, -1, area, d)
    dropped = keep.numel() > 0
    with torch.autocast(grad.device.type, enabled=False):
        weights = (p * keep if dropped else p).to(x.dtype).view(-1, area, area)
        torch.bmm(weights.mT, g, out=dv)
        dp = torch.bmm(g, v.mT).view_as(p).to(p.dtype)
        if dropped:
            dp = dp.mul_(keep)
        ds = torch.ops.aten._softmax_backward_data(dp, p, -1, p.dtype)
        dbias = ds.sum(0) if needs_bias else p.new_empty(0)
        ds = ds.to(x.dtype).view(-1, area, area)
        torch.bmm(ds, k, out=dq)
        dq.mul_(scale)
        torch.bmm(ds.mT, q, out=dk)
    dpad = x.new_empty(0)
    if needs_pad:
        rows = m.pad_rows(3)[heads:]  # no output depends on a padded query
        dpad = dx.index_select(0, rows.flatten()).view(*rows.shape, d).sum(1).flatten()
        dpad = torch.cat([dpad.new_zeros(heads * d), dpad])
    dqkv = dx.index_select(0, m.window_rows(3)).view(m.B, H * W, 3 * heads * d)
    return dqkv, dbias, dpad


@_backward.register_fake
def _(grad: Tensor, x: Tensor, p: Tensor, keep: Tensor, H: int, W: int, heads: int, w: int,
      shift: int, scale: float, needs_bias: bool, needs_pad: bool
      ) -> tuple[Tensor, Tensor, Tensor]:
    c = 3 * heads * x.shape[1]
    return (x.new_empty((grad.shape[0], H * W, c)),
            p.new_empty((heads, w * w, w * w) if needs_bias else 0),
            x.new_empty(c if needs_pad else 0))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, bias, pad, *ctx.map, _, _ = inputs
    ctx.save_for_backward(*output[1:])
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
