"""DyHead's combination: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..common import autocasting, dtype_reason, next_power_of_2
from ..dispatch import Reason, use_triton
from ..launch import launch
from .reference import Branch, dyhead_combine_reference

__all__ = ["Branch", "can_run_dyhead_combine", "dyhead_combine"]

BLOCK = 1024
#: Channels, padded to powers of two, that one program holds.
MAX_CHANNELS = 4096


def _tile(channels: int, groups: int) -> dict[str, int]:
    """The tile that holds all channels of an image, as groups and channels of a group."""
    return {"BLOCK_G": next_power_of_2(groups), "BLOCK_C": next_power_of_2(channels // groups)}


def can_run_dyhead_combine(x: Tensor, groups: int) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    if reason := dtype_reason(x):
        return reason
    if math.prod(_tile(x.shape[1], groups).values()) > MAX_CHANNELS:
        return f"its kernels hold up to {MAX_CHANNELS} channels, not {x.shape[1]}"
    return None


def _outputs_of_one(size_in: int, size_out: int) -> int:
    """Along one axis, how many outputs of the resize one input may have a part in."""
    return size_out if size_in == 1 else -(-2 * (size_out - 1) // (size_in - 1))


def _sizes(mid: Tensor, high: Tensor | None) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """Sizes of a level and of the coarser one, and the bounds of the resize's adjoint."""
    H, W = mid.shape[2:]
    h, w = (H, W) if high is None else high.shape[2:]
    return (H, W, h, w), (_outputs_of_one(h, H), _outputs_of_one(w, W))


def _maps(mid: Tensor, low: Tensor | None, high: Tensor | None) -> list[Tensor]:
    """Contiguous maps; ``mid`` stands in where there is none."""
    return [(mid if t is None else t).contiguous() for t in (mid, low, high)]


def _small(mid: Tensor, low: Tensor | None, high: Tensor | None, norms: list[Tensor], groups: int,
           eps: float, act: list[float]) -> tuple[list[Tensor], tuple[Any, ...], dict[str, int]]:
    """What the two kernels of one program per image share: parameters, numbers and options."""
    B, C, H, W = mid.shape
    area_high = H * W if high is None else high.shape[2] * high.shape[3]
    given = iter(norms[2:])
    both = [next(given) if t is not None else norms[i] for t in (low, high) for i in (0, 1)]
    options = {"C": C, "CG": C // groups, "HAS_LOW": int(low is not None),
               "HAS_HIGH": int(high is not None), **_tile(C, groups), "num_warps": 4}
    return ([t.contiguous() for t in (*norms[:2], *both)], (B * C, H * W, area_high, eps, *act),
            options)


@torch.library.custom_op(
    "fastdet::dyhead_combine", mutates_args=(),
    schema="(Tensor mid, Tensor? low, Tensor? high, Tensor[] norms, Tensor attention_weight, "
           "Tensor attention_bias, int groups, float eps, float[] act, ScalarType dtype) "
           "-> (Tensor, Tensor, Tensor)")
def _forward(mid: Tensor, low: Tensor | None, high: Tensor | None, norms: list[Tensor],
             attention_weight: Tensor, attention_bias: Tensor, groups: int, eps: float,
             act: list[float], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    from . import kernel

    B, C, H, W = mid.shape
    maps, (sizes, bounds) = _maps(mid, low, high), _sizes(mid, high)
    parameters, numbers, options = _small(mid, low, high, norms, groups, eps, act)
    out = torch.empty_like(mid, dtype=dtype, memory_format=torch.contiguous_format)
    mean = out.new_empty(B, C)
    # Those of a branch that is not there are never read, but they are part of the result.
    make = torch.empty if low is not None and high is not None else torch.zeros
    moments = make((3, 3, B, C), device=mid.device, dtype=torch.float32)
    factors = torch.empty((4, B, C), device=mid.device, dtype=torch.float32)
    branches = 1 + (low is not None) + (high is not None)
    launch(kernel.dyhead_combine_moments_kernel, (B * C, branches), *maps, moments, B * C, *sizes,
           *bounds, 2 if low is None else 1, BLOCK=BLOCK, num_warps=4, device=mid.device)
    launch(kernel.dyhead_combine_factors_kernel, (B,), moments, *parameters,
           attention_weight.contiguous(), attention_bias, factors, mean, *numbers, **options,
           device=mid.device)
    launch(kernel.dyhead_combine_fwd_kernel, (B * C, -(-H * W // BLOCK)), *maps, moments, factors,
           out, B * C, *sizes, HAS_LOW=options["HAS_LOW"], HAS_HIGH=options["HAS_HIGH"],
           BLOCK=BLOCK, num_warps=4, device=mid.device)
    return out, mean, moments


@_forward.register_fake
def _(mid: Tensor, _low: Tensor | None, _high: Tensor | None, _norms: list[Tensor],
      _weight: Tensor, _bias: Tensor, _groups: int, _eps: float, _act: list[float],
      dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    out = torch.empty_like(mid, dtype=dtype, memory_format=torch.contiguous_format)
    B, C = mid.shape[:2]
    return out, out.new_empty(B, C), mid.new_empty(3, 3, B, C, dtype=torch.float32)


@torch.library.custom_op(
    "fastdet::dyhead_combine_backward", mutates_args=(),
    schema="(Tensor grad, Tensor grad_mean, Tensor mid, Tensor? low, Tensor? high, "
           "Tensor[] norms, Tensor attention_weight, Tensor attention_bias, Tensor moments, "
           "int groups, float eps, float[] act) -> (Tensor, Tensor, Tensor, Tensor)")
def _backward(grad: Tensor, grad_mean: Tensor, mid: Tensor, low: Tensor | None, high: Tensor | None,
              norms: list[Tensor], attention_weight: Tensor, attention_bias: Tensor,
              moments: Tensor, groups: int, eps: float, act: list[float]
              ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from . import kernel

    B, C, H, W = mid.shape
    maps, (sizes, bounds) = _maps(mid, low, high), _sizes(mid, high)
    parameters, numbers, options = _small(mid, low, high, norms, groups, eps, act)
    flags: dict[str, Any] = {k: options[k] for k in ("HAS_LOW", "HAS_HIGH")}
    flags |= {"BLOCK": BLOCK, "num_warps": 4, "device": mid.device}
    grad = grad.contiguous()
    sums = torch.empty((4, B, C), device=mid.device, dtype=torch.float32)
    back = torch.empty((3, 4, B, C), device=mid.device, dtype=torch.float32)
    partial = torch.empty((B, 8, C), device=mid.device, dtype=torch.float32)
    grads = [mid.new_empty((0,) if t is None else t.shape) for t in (mid, low, high)]
    launch(kernel.dyhead_combine_sums_kernel, (B * C,), grad, *maps, moments, sums, B * C, *sizes,
           **flags)
    launch(kernel.dyhead_combine_back_kernel, (B,), moments, *parameters,
           attention_weight.contiguous(), attention_bias, sums, grad_mean.contiguous(), back,
           partial, *numbers, **options, device=mid.device)
    blocks = -(-H * W // BLOCK)
    coarse = 0 if high is None else -(-high.shape[2] * high.shape[3] // BLOCK)
    launch(kernel.dyhead_combine_bwd_kernel, (B * C, blocks + coarse), grad, *maps, moments, back,
           *grads, B * C, *sizes, *bounds, blocks, **flags)
    return grads[0], grads[1], grads[2], partial.sum(0)


@_backward.register_fake
def _(_grad: Tensor, _grad_mean: Tensor, mid: Tensor, low: Tensor | None, high: Tensor | None,
      *_args: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    grads = [mid.new_empty((0,) if t is None else t.shape) for t in (mid, low, high)]
    return (grads[0], grads[1], grads[2],
            mid.new_empty(8, mid.shape[1], dtype=torch.float32))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    mid, low, high, norms, weight, bias, *ctx.rest = inputs
    ctx.save_for_backward(mid, low, high, weight, bias, output[2], *norms)
    ctx.set_materialize_grads(False)


def _autograd(ctx: Any, grad: Tensor | None, grad_mean: Tensor | None, _moments: Tensor | None
              ) -> tuple[Any, ...]:
    mid, low, high, weight, bias, moments, *norms = ctx.saved_tensors
    groups, eps, act, dtype = ctx.rest
    if grad is None:
        grad = torch.zeros_like(mid, dtype=dtype)
    if grad_mean is None:
        grad_mean = grad.new_zeros(mid.shape[:2])
    *grads, total = _backward(grad, grad_mean, mid, low, high, norms, weight, bias, moments, groups,
                              eps, act)
    rows = [0, 1] + [2, 3] * (low is not None) + [4, 5] * (high is not None)
    return (*(None if t is None else g for t, g in zip((mid, low, high), grads)),
            [total[row].to(t.dtype) for row, t in zip(rows, norms)], total[6].to(weight.dtype),
            total[7, :1].to(bias.dtype), None, None, None, None)


_forward.register_autograd(_autograd, setup_context=_setup_context)


def _check(mid: Branch, low: Branch | None, high: Branch | None, attention_weight: Tensor,
           attention_bias: Tensor, groups: int) -> None:
    x = mid.x
    if x.dim() != 4 or not x.is_floating_point() or 0 in x.shape[1:]:
        raise ValueError("dyhead_combine: mid must be a floating-point [B, C, H, W], got "
                         f"{x.dtype} {list(x.shape)}")
    B, C, H, W = x.shape
    if groups < 1 or C % groups:
        raise ValueError(f"dyhead_combine: {C} channels do not divide into groups={groups}")
    for name, branch in (("mid", mid), ("low", low), ("high", high)):
        if branch is None:
            continue
        t = branch.x
        fits = t.dim() == 4 and t.shape[:2] == x.shape[:2] and t.dtype == x.dtype
        if name == "high":
            fits = fits and 0 < t.shape[2] <= H and 0 < t.shape[3] <= W
        else:
            fits = fits and t.shape == x.shape
        if not fits:
            most = " at most" if name == "high" else ""
            raise ValueError(f"dyhead_combine: {name} must be {x.dtype}{most} {list(x.shape)}, got "
                             f"{t.dtype} {list(t.shape)}")
        if B * C * t.shape[2] * t.shape[3] == groups:
            raise ValueError(f"dyhead_combine: {name} {list(t.shape)} in {groups} groups leaves a "
                             "group one number, which has no variance")
        for what, p in (("weight", branch.weight), ("bias", branch.bias)):
            if p.shape != (C,):
                raise ValueError(f"dyhead_combine: {what} of {name} must be [{C}], got "
                                 f"{list(p.shape)}")
    if attention_weight.shape != (C,) or attention_bias.shape != (1,):
        raise ValueError(f"dyhead_combine: attention weight and bias must be [{C}] and [1], got "
                         f"{list(attention_weight.shape)} and {list(attention_bias.shape)}")


def dyhead_combine(branches: Sequence[Branch | None], attention_weight: Tensor,
                   attention_bias: Tensor, *, groups: int, eps: float = 1e-5,
                   act: tuple[float, float, float, float] = (3.0, 6.0, 0.0, 1.0)
                   ) -> tuple[Tensor, Tensor]:
    """Average the branches of a DyHead level, each normalised, resized and weighted.

    ``out = mean over branches of s * y``, where ``y`` is the group norm of the branch, resized to
    the size of ``mid`` (bilinear, corners aligned), and ``s = clamp((relu(mean(y) .
    attention_weight + attention_bias) + bias) / divisor, least, most)`` one number per image.

    Args:
        branches: mid, the level's own map [B, C, H, W] with weight and bias [C] of its norm; low,
            the finer level's, of the same size, or ``None`` at the finest; high, the coarser
            level's, no larger, or ``None`` at the coarsest.
        attention_weight: [C].
        attention_bias: [1].
        groups: groups of the norms.
        eps: added to the variances.
        act: bias, divisor, least and most of the HSigmoid.

    Returns:
        The result [B, C, H, W] and its mean [B, C]; under autocast both float32, as group norm is.

    Raises:
        ValueError: shapes or data types do not fit.
        BackendError: the triton backend was asked for by name and cannot take the call.

    Source: Dynamic Head, https://arxiv.org/abs/2106.08322
    """
    mid, low, high = branches if len(branches) == 3 else (None, None, None)
    if mid is None:
        given = ["no branch" if b is None else "a branch" for b in branches]
        raise ValueError("dyhead_combine: branches must be mid, low or None, and high or None, got "
                         f"{given}")
    _check(mid, low, high, attention_weight, attention_bias, groups)
    x = mid.x
    present = [b for b in branches if b is not None]
    autocast = autocasting(x.device)
    if not use_triton("dyhead_combine", x.device, can_run_dyhead_combine(x, groups)):
        with torch.autocast(x.device.type, enabled=False):
            if autocast:
                present = [b._replace(x=b.x.to(torch.promote_types(x.dtype, torch.float32)))
                           for b in present]
            return dyhead_combine_reference(present, attention_weight, attention_bias, groups, eps,
                                            act)
    norms = [p for b in present for p in (b.weight, b.bias)]
    out, mean, _ = _forward(x, None if low is None else low.x, None if high is None else high.x,
                            norms, attention_weight, attention_bias, groups, eps, list(act),
                            torch.float32 if autocast else x.dtype)
    return out, mean
