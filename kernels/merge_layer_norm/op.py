"""Merging of tokens and layer normalisation: checks, dispatch, launches, autograd, registration."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..add_layer_norm.op import RowConfig, row_config, row_reason
from ..autograd import operator
from ..common import autocasting, options, partial_sums
from ..dispatch import Reason, use_triton
from ..launch import Prepared, Program, num_sms
from .reference import merge_layer_norm_reference

__all__ = ["can_run_merge_layer_norm", "merge_layer_norm"]

NAME = "merge_layer_norm"


def can_run_merge_layer_norm(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    return row_reason(x, weight, dtype)


#: Programs of the backward whose registers a multiprocessor has room for, by width of the tile.
_PER_SM = {2048: 3, 4096: 1}
_USUAL_PER_SM = 5


def _config(channels: int, backward: bool) -> RowConfig:
    """Tiles of merged tokens; a token's channels are a quarter of their width."""
    config = row_config(4 * channels, backward)
    return config._replace(per_sm=_PER_SM.get(config.block_c, _USUAL_PER_SM))


@lru_cache(maxsize=512)
def _plan(kind: str, x: torch.Size, H: int, W: int, multiprocessors: int, **needs: int) -> Prepared:
    """``fwd`` or ``bwd``, whose programs walk over blocks, with H, W, merged tokens, and blocks."""
    from . import kernel

    config = _config(x[2], kind == "bwd")
    lines, w = x[0] * -(-H // 2), -(-W // 2)
    blocks = lines * -(-w // config.block_m)
    program = Program(getattr(kernel, f"merge_layer_norm_{kind}_kernel"), C=x[2],
                      BLOCK_C=config.block_c // 4, **options(config, ("block_c",)), **needs)
    if kind == "fwd":
        return program.at((blocks,), H, W, lines * w)
    return program.at((config.programs(blocks, multiprocessors),), H, W, lines * w, blocks)


@operator(
    "merge_layer_norm",
    "(Tensor x, SymInt H, SymInt W, Tensor weight, Tensor bias, float eps, ScalarType dtype) "
    "-> (Tensor, Tensor)", saved=1)
def _forward(x: Tensor, H: int, W: int, weight: Tensor, bias: Tensor, eps: float,
             dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    out, stats = _results(x, H, W, dtype)
    fwd = _plan("fwd", x.shape, H, W, 0)
    fwd(x, weight.contiguous(), bias.contiguous(), out, stats, eps, device=x.device)
    return out, stats


@_forward.register_fake
def _(x: Tensor, H: int, W: int, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
      ) -> tuple[Tensor, Tensor]:
    return _results(x, H, W, dtype)


def _results(x: Tensor, H: int, W: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Memory for the merged tokens, and for mean and 1 / deviation of each."""
    tokens = (H + 1) // 2 * ((W + 1) // 2)
    return (x.new_empty((x.shape[0], tokens, 4 * x.shape[2]), dtype=dtype),
            x.new_empty((2, x.shape[0] * tokens), dtype=torch.float32))


@operator(
    "merge_layer_norm_backward",
    "(Tensor grad, Tensor x, Tensor stats, SymInt H, SymInt W, Tensor weight, bool needs_weight) "
    "-> (Tensor, Tensor)")
def _backward(grad: Tensor, x: Tensor, stats: Tensor, H: int, W: int, weight: Tensor,
              needs_weight: bool) -> tuple[Tensor, Tensor]:
    grad, x = grad.contiguous(), x.contiguous()
    bwd = _plan("bwd", x.shape, H, W, num_sms(x.device), NEEDS_WEIGHT=int(needs_weight))
    dx = torch.empty_like(x)
    partial = partial_sums((*bwd.grid, 2, 4 * x.shape[2]), x.device, needs_weight)
    bwd(grad, x, stats, weight.contiguous(), dx, partial, device=x.device)
    return dx, partial.sum(0) if needs_weight else partial


@_backward.register_fake
def _(grad: Tensor, x: Tensor, stats: Tensor, H: int, W: int, weight: Tensor, needs_weight: bool
      ) -> tuple[Tensor, Tensor]:
    return (x.new_empty(x.shape),
            x.new_empty((2, 4 * x.shape[2]) if needs_weight else (0,), dtype=torch.float32))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, H, W, weight, bias, *_ = inputs
    ctx.save_for_backward(x, output[1], weight)
    ctx.hw, ctx.bias_dtype = (H, W), bias.dtype


def _autograd(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    x, stats, weight = ctx.saved_tensors
    needs_x, _, _, needs_weight, needs_bias, *_ = ctx.needs_input_grad
    dx, dweights = _backward(grad, x, stats, *ctx.hw, weight, needs_weight or needs_bias)
    dweight = dbias = None
    if needs_weight or needs_bias:
        dweight, dbias = (d if d.dtype == t else d.to(t)
                          for d, t in zip(dweights.unbind(), (weight.dtype, ctx.bias_dtype)))
    return (dx if needs_x else None, None, None,
            dweight if needs_weight else None, dbias if needs_bias else None, None, None)


_forward.register_autograd(_autograd, setup_context=_setup_context)


def merge_layer_norm(x: Tensor, hw: tuple[int, int], weight: Tensor, bias: Tensor,
                     eps: float = 1e-5, *, dtype: torch.dtype | None = None) -> Tensor:
    """Each 2 x 2 tokens of a map as one, normalised: what Swin does between stages.

    The channels of a merged token are ordered as by ``torch.nn.Unfold``: channel slowest, then the
    row and the column of the token. An odd map is a row or column of zeros larger.

    Args:
        x: [B, H * W, C], tokens row by row.
        hw: (H, W).
        weight: [4 * C] of the normalisation (arXiv 1607.06450).
        bias: [4 * C] of the normalisation.
        eps: added to the variance.
        dtype: of the result; by default what :func:`torch.nn.functional.layer_norm` gives: float32
            under a GPU's autocast, otherwise the type of ``x``.

    Returns:
        [B, ceil(H / 2) * ceil(W / 2), 4 * C].

    Raises:
        ValueError: shapes, data types or devices do not fit.
        BackendError: the triton backend was asked for by name and cannot take the call.

    Source: Swin Transformer, https://arxiv.org/abs/2103.14030
    """
    shape, device, (height, width) = x.shape, x.device, hw
    if len(shape) != 3 or not x.is_floating_point() or shape[1] != height * width:
        raise ValueError(f"{NAME}: x must be floating-point [B, H * W, C] of a map of {height} x "
                         f"{width}, got {x.dtype} {list(shape)}")
    for what, given in (("weight", weight), ("bias", bias)):
        if given.shape != (4 * shape[2],) or given.device != device:
            raise ValueError(f"{NAME}: {what} must be [{4 * shape[2]}] on {device}, got "
                             f"{list(given.shape)} on {given.device}")
    if dtype is None:
        dtype = x.dtype
        if device.type != "cpu" and autocasting(device):
            dtype = torch.promote_types(dtype, torch.float32)
    if not use_triton(NAME, device, can_run_merge_layer_norm(x, weight, dtype)):
        return merge_layer_norm_reference(x, (height, width), weight, bias, eps, dtype)
    return _forward(x, height, width, weight, bias, eps, dtype)
