"""Depthwise convolution of tokens: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import operator
from ..common import dtype_reason, next_power_of_2, optional_empty, partial_sums
from ..dispatch import Reason, use_triton
from ..launch import Prepared, Program, capability, num_sms
from .reference import depthwise_conv_tokens_reference

__all__ = ["can_run_depthwise_conv_tokens", "depthwise_conv_tokens"]

NAME = "depthwise_conv_tokens"


def can_run_depthwise_conv_tokens(x: Tensor, weight: Tensor, bias: Tensor | None) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    return dtype_reason(x, weight, x if bias is None else bias)


def _per_sm(kind: str, dtype: torch.dtype, card: tuple[int, int], has_grad: bool) -> int:
    """Programs whose registers a multiprocessor has room for."""
    if kind == "fwd":
        return 3 if has_grad else 4
    return 3 if card[0] == 9 and dtype != torch.float32 else 2


@lru_cache(maxsize=512)
def _span(width: int, walks: int, places: int) -> int:
    """Columns of a walk: as many as make the waves of programs take least.

    A walk is four columns longer than its span: to begin and to end it. None is shorter than eight
    columns; of equals, the longest.

    Args:
        width: columns of the map.
        walks: programs if each walked along all of it.
        places: programs that the device holds at once.
    """
    spans = dict.fromkeys(-(-width // parts) for parts in range(1, max(1, width // 8) + 1))
    return min(spans, key=lambda span: -(-walks * -(-width // span) // places) * (span + 4))


class _Plan(NamedTuple):
    """What a launch has in common with all of the same sizes."""

    launch: Prepared
    partials: tuple[int, int]  # programs that have the same channels, and sums of all of them


@lru_cache(maxsize=512)
def _plan(kind: str, B: int, H: int, W: int, C: int, dtype: torch.dtype, sms: int,
          card: tuple[int, int], **needs: int) -> _Plan:
    """Tiles of 64 channels and eight pairs of rows: a thread has four channels of two rows.

    Nine weights and nine sums of each channel are registers; with eight channels they spill.
    """
    from . import kernel

    block_c = min(64, next_power_of_2(C))
    block_p = (1024 if card == (0, 0) else 512) // block_c  # AMD's warps have twice the threads
    channels, rows = -(-C // block_c), -(-B * -(-H // 2) // block_p)
    per_sm = _per_sm(kind, dtype, card, bool(needs.get("HAS_GRAD")))
    span = _span(W, channels * rows, per_sm * sms) if W else 1
    spans = -(-W // span)
    program = Program(getattr(kernel, f"depthwise_conv_tokens_{kind}_kernel"), C=C, **needs,
                      BLOCK_P=block_p, BLOCK_C=block_c, num_warps=4)
    return _Plan(program.at((channels * rows, spans), B, H, W, span), (rows * spans, 10 * C))


def _planned(kind: str, x: Tensor, H: int, W: int, **needs: int) -> _Plan:
    device = x.device
    return _plan(kind, x.shape[0], H, W, x.shape[2], x.dtype, num_sms(device), capability(device),
                 **needs)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor | None, H: int, W: int,
              gelu: bool) -> Tensor:
    """The convolution, with ``gelu`` its activation, with ``grad`` the gradient before that."""
    out = torch.empty_like(x)
    plan = _planned("fwd", x, H, W, HAS_BIAS=int(bias is not None), GELU=int(gelu),
                    HAS_GRAD=int(grad is not None))
    plan.launch(x, weight, x if bias is None else bias, x if grad is None else grad, out,
                device=x.device)
    return out


@operator(
    "depthwise_conv_tokens",
    "(Tensor x, Tensor weight, Tensor? bias, SymInt H, SymInt W, bool gelu) -> Tensor")
def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, H: int, W: int, gelu: bool) -> Tensor:
    bias = None if bias is None else bias.contiguous()
    return _convolve(x.contiguous(), weight.contiguous(), bias, None, H, W, gelu)


@_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, H: int, W: int, gelu: bool) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@operator(
    "depthwise_conv_tokens_backward",
    "(Tensor grad, Tensor x, Tensor weight, Tensor? bias, SymInt H, SymInt W, bool gelu, "
    "bool needs_x, bool needs_weight) -> (Tensor, Tensor)")
def _backward(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, H: int, W: int,
              gelu: bool, needs_x: bool, needs_weight: bool) -> tuple[Tensor, Tensor]:
    grad, x, weight = grad.contiguous(), x.contiguous(), weight.contiguous()
    if gelu:
        bias = None if bias is None else bias.contiguous()
        grad = _convolve(x, weight, bias, grad, H, W, True)
    dx = optional_empty(x, needs_x)
    plan = _planned("bwd", x, H, W, NEEDS_X=int(needs_x), NEEDS_WEIGHT=int(needs_weight))
    partial = partial_sums(plan.partials, x.device, needs_weight)
    plan.launch(x, weight, grad, dx, partial, device=x.device)
    return dx, partial.sum(0) if needs_weight else partial


@_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, H: int, W: int, gelu: bool,
      needs_x: bool, needs_weight: bool) -> tuple[Tensor, Tensor]:
    dx = torch.empty_like(x, memory_format=torch.contiguous_format) if needs_x else x.new_empty(0)
    return dx, x.new_empty(10 * x.shape[2] if needs_weight else 0, dtype=torch.float32)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, *ctx.options = inputs
    ctx.save_for_backward(x, weight, bias)


def _autograd(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias = ctx.saved_tensors
    needs = ctx.needs_input_grad
    dx, sums = _backward(grad, x, weight, bias, *ctx.options, needs[0], needs[1] or needs[2])
    if not (needs[1] or needs[2]):
        return dx, None, None, None, None, None
    if bias is None:
        dweight, dbias = sums[:weight.numel()].to(weight.dtype), None
    else:  # most often of one type
        sums = sums.to(torch.promote_types(weight.dtype, bias.dtype))
        dweight, dbias = sums.split_with_sizes((weight.numel(), bias.numel()))
        dweight, dbias = dweight.to(weight.dtype), dbias.to(bias.dtype)
    return dx if needs[0] else None, dweight.view_as(weight), dbias, None, None, None


_forward.register_autograd(_autograd, setup_context=_setup_context)


def depthwise_conv_tokens(x: Tensor, weight: Tensor, bias: Tensor | None,
                          hw_shape: Sequence[int], *, gelu: bool = False) -> Tensor:
    """The 3x3 convolution of every channel of a map of tokens by itself, padded with zeros.

    As in the feed-forward networks of PVTv2 (arXiv 2106.13797). As under autocast, the result is of
    the type of ``x``, whatever that of the weight. With ``gelu`` the convolution is computed again
    for the backward pass and not kept.

    Args:
        x: [B, H * W, C], the pixels row by row.
        weight: [C, 1, 3, 3].
        bias: [C].
        hw_shape: (H, W).
        gelu: whether the GELU of the error function (arXiv 1606.08415) follows.

    Returns:
        [B, H * W, C].

    Raises:
        ValueError: shapes, data types or devices do not fit.
        BackendError: the triton backend was asked for by name and cannot take the call.
    """
    H, W = hw_shape
    if x.dim() != 3 or not x.is_floating_point() or x.shape[1] != H * W:
        raise ValueError(f"{NAME}: x must be floating-point [B, {H} * {W}, C], got {x.dtype} "
                         f"{list(x.shape)}")
    C = x.shape[2]
    for what, given, shape in (("weight", weight, (C, 1, 3, 3)), ("bias", bias, (C,))):
        if given is not None and (given.shape != shape or given.device != x.device):
            raise ValueError(f"{NAME}: {what} must be {list(shape)} on {x.device}, got "
                             f"{list(given.shape)} on {given.device}")
    if not use_triton(NAME, x.device, can_run_depthwise_conv_tokens(x, weight, bias)):
        return depthwise_conv_tokens_reference(x, weight, bias, (H, W), gelu)
    return _forward(x, weight, bias, H, W, gelu)
