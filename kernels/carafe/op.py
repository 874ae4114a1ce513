"""CARAFE: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import operator
from ..common import dtype_reason, next_power_of_2, optional_empty, options
from ..dispatch import Reason, tracing, use_triton
from ..launch import Prepared, program
from .reference import carafe_reference

__all__ = ["can_run_carafe", "carafe"]

#: Sizes or strides of a map.
_Four = tuple[int, ...]


def can_run_carafe(features: Tensor, masks: Tensor, kernel_size: int,
                   scale_factor: int) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    return _reason(features.shape, features.stride(), features.dtype, masks.shape, masks.stride(),
                   masks.dtype, kernel_size, scale_factor)


def _reason(shape: _Four, stride: _Four, dtype: torch.dtype, masks: _Four, mask_stride: _Four,
            mask_dtype: torch.dtype, kernel_size: int, scale_factor: int) -> Reason | None:
    if reason := dtype_reason(dtype, mask_dtype):
        return reason
    if not 3 <= kernel_size <= 7 or not 1 <= scale_factor <= 4:
        return ("its kernels take kernels of 3 to 7 and scales of 1 to 4, "
                f"not {kernel_size} and {scale_factor}")
    _, c, h, w = shape
    if max(_extent(shape, stride), _extent(masks, mask_stride),
           c * h * w * scale_factor**2) >= 2**31:
        return "its kernels take maps of fewer than 2^31 numbers an image"
    return None


def _extent(shape: _Four, stride: _Four) -> int:
    """How far apart the first and the last number of an image lie."""
    return sum((n - 1) * step for n, step in zip(shape[1:], stride[1:]))


class _Config(NamedTuple):
    block_p: int
    block_c: int
    num_warps: int


def _config(kind: str, channels: int, kernel_size: int, scale: int) -> _Config:
    """Tiles of one kernel, ``fwd``, ``x`` or ``mask``, so that 16 warps fit a multiprocessor.

    Only 8 do of ``x`` at scale 4 in float32, whose accumulators 128 registers do not hold. The
    forward has all channels of a group where 256 hold them: a softmax is then done once. 16 pixels
    at least are a sector of 16-bit numbers. Threads have 8 elements of [channels, pixels], and of
    [taps, lanes] no more than 32.
    """
    most = {"fwd": 256, "x": 32 if scale == 4 else 128, "mask": 128}[kind]
    block_c = min(next_power_of_2(channels, 16), most)
    block_p = min(max(16, 2048 // block_c), 32)
    warps = block_p * block_c // 256
    if kind == "x":
        warps *= 2 if scale == 4 else 1
    else:
        lanes = block_p * (1 if scale == 1 else 4)
        warps = max(warps, next_power_of_2(kernel_size**2) * lanes // 1024)
    return _Config(block_p, block_c, max(warps, 1))


def _mask_strides(masks: _Four, scale: int, normalize: bool) -> tuple[int, ...]:
    """Strides of the weights by batch, tap, source row, row in it, source column, column in it."""
    b, c, h, w = masks
    if normalize:
        return b, c * scale * scale, h, c * scale, w, c
    return b, c, h * scale, h, w * scale, w


def _dense(masks: Tensor) -> Tensor:
    """The weights in one of the two formats that ``empty_like`` keeps."""
    if masks.is_contiguous() or masks.is_contiguous(memory_format=torch.channels_last):
        return masks
    return masks.contiguous()


def _aligned(stride: _Four, scale: int) -> bool:
    """Whether the ``scale`` columns of a source pixel are one access: all rows start at one."""
    b, c, h, w = stride
    return w == 1 and scale != 3 and not (b % scale or c % scale or h % scale)


def _empty_result(features: Tensor, scale: int) -> Tensor:
    """[B, C, s H, s W] in the memory format of the features."""
    b, c, h, w = features.shape
    size = (b, c, h * scale, w * scale)
    if features.is_contiguous() or not features.is_contiguous(memory_format=torch.channels_last):
        return features.new_empty(size)
    return torch.empty(size, dtype=features.dtype, device=features.device,
                       memory_format=torch.channels_last)


def _empty_lse(features: Tensor, group_size: int, scale: int, normalize: bool) -> Tensor:
    b, _, h, w = features.shape
    return features.new_empty((b, group_size, h * scale, w * scale) if normalize else (0,),
                              dtype=torch.float32)


@lru_cache(maxsize=1024)
def _plan(kind: str, shape: _Four, maps: tuple[_Four, _Four, _Four], kernel_size: int,
          group_size: int, scale: int, normalize: bool) -> Prepared:
    """The launch of ``fwd``, ``x`` or ``mask``.

    Args:
        kind: which kernel.
        shape: of the features.
        maps: the strides of what the kernel reads, the weights' in the middle, and of what it
            writes; ``mask`` writes weights and has those of the result's gradient there.
        kernel_size: taps across.
        group_size: groups.
        scale: of the result.
        normalize: whether the weights are to be shuffled and normalised.
    """
    from . import kernel

    b, c, h, w = shape
    read, masks, other = maps
    config = _config(kind, c // group_size, kernel_size, scale)
    result = read if kind == "x" else other  # or its gradient
    constants = {
        "K": kernel_size, "S": scale, "NORMALIZE": int(normalize),
        "ALIGNED": int(_aligned(result, scale)),
        "EVEN_C": int(c // group_size % config.block_c == 0), **options(config)}
    pixels, blocks = -(-h * w // config.block_p), -(-c // group_size // config.block_c)
    if kind == "x":
        grid: tuple[int, ...] = (pixels, blocks, b * group_size)
    else:
        constants["BLOCK_T"] = next_power_of_2(kernel_size**2)
        pixels *= 1 if scale == 2 else scale
        grid = (pixels, blocks, b * group_size) if kind == "fwd" else (pixels, b * group_size)
    name = "carafe_fwd_kernel" if kind == "fwd" else f"carafe_bwd_{kind}_kernel"
    return program(getattr(kernel, name), **constants).at(
        grid, h, w, c, group_size, *read, *_mask_strides(masks, scale, normalize), *other)





@operator("carafe", "(Tensor features, Tensor masks, SymInt kernel_size, SymInt group_size, "
          "SymInt scale_factor, bool normalize) -> (Tensor, Tensor)", saved=1)
def _forward(features: Tensor, masks: Tensor, kernel_size: int, group_size: int,
             scale_factor: int, normalize: bool) -> tuple[Tensor, Tensor]:
    out = _empty_result(features, scale_factor)
    lse = _empty_lse(features, group_size, scale_factor, normalize)
    _plan("fwd", features.shape, (features.stride(), masks.stride(), out.stride()), kernel_size,
          group_size, scale_factor, normalize)(features, masks, out, lse, device=features.device)
    return out, lse


@_forward.register_fake
def _(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int,
      normalize: bool) -> tuple[Tensor, Tensor]:
    return (_empty_result(features, scale_factor),
            _empty_lse(features, group_size, scale_factor, normalize))


@operator("carafe_backward", "(Tensor grad, Tensor features, Tensor masks, Tensor lse, "
          "SymInt kernel_size, SymInt group_size, SymInt scale_factor, bool normalize, "
          "bool needs_x, bool needs_mask) -> (Tensor, Tensor)")
def _backward(grad: Tensor, features: Tensor, masks: Tensor, lse: Tensor, kernel_size: int,
              group_size: int, scale_factor: int, normalize: bool, needs_x: bool, needs_mask: bool
              ) -> tuple[Tensor, Tensor]:
    sizes = (kernel_size, group_size, scale_factor, normalize)
    shape, device, masks = features.shape, features.device, _dense(masks)
    if not grad.is_contiguous() and _extent(grad.shape, grad.stride()) >= 2**31:
        grad = grad.contiguous()
    dx = optional_empty(features, needs_x)
    if needs_x:
        _plan("x", shape, (grad.stride(), masks.stride(), dx.stride()), *sizes)(
            grad, masks, lse, dx, device=device)
    dmask = optional_empty(masks, needs_mask)
    if needs_mask:
        _plan("mask", shape, (features.stride(), masks.stride(), grad.stride()), *sizes)(
            features, masks, grad, dmask, device=device)
    return dx, dmask


@_backward.register_fake
def _(grad: Tensor, features: Tensor, masks: Tensor, lse: Tensor, kernel_size: int,
      group_size: int, scale_factor: int, normalize: bool, needs_x: bool, needs_mask: bool
      ) -> tuple[Tensor, Tensor]:
    return optional_empty(features, needs_x), optional_empty(_dense(masks), needs_mask)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, masks, *ctx.rest = inputs
    ctx.save_for_backward(features, masks, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # no zeros for it


def _autograd(ctx: Any, grad: Tensor, _lse: None = None) -> tuple[Any, ...]:
    needs_x, needs_mask = ctx.needs_input_grad[:2]
    dx, dmask = _backward(grad, *ctx.saved_tensors, *ctx.rest, needs_x, needs_mask)
    return (dx if needs_x else None, dmask if needs_mask else None, None, None, None, None)


_forward.register_autograd(_autograd, setup_context=_setup_context)


def _check(shape: _Four, stride: _Four, dtype: torch.dtype, device: torch.device, masks: _Four,
           mask_stride: _Four, mask_dtype: torch.dtype, mask_device: torch.device,
           kernel_size: int, group_size: int, scale_factor: int, normalize: bool) -> Reason | None:
    """Refuse what does not fit, and why the kernels cannot take the call, if they cannot."""
    if len(shape) != 4 or len(masks) != 4 or not dtype.is_floating_point:
        raise ValueError("carafe: features and masks must be floating-point [B, C, H, W], got "
                         f"{dtype} {list(shape)} and {list(masks)}")
    if kernel_size < 1 or kernel_size % 2 == 0 or scale_factor < 1 or group_size < 1:
        raise ValueError("carafe: kernel_size must be odd, group_size and scale_factor positive, "
                         f"got {kernel_size}, {group_size} and {scale_factor}")
    b, c, h, w = shape
    if c % group_size:
        raise ValueError(f"carafe: {c} channels do not divide into {group_size} groups")
    taps, s = group_size * kernel_size**2, scale_factor
    want = [b, taps * s * s, h, w] if normalize else [b, taps, h * s, w * s]
    if list(masks) != want:
        raise ValueError(f"carafe: masks must be {want} for features {list(shape)} with "
                         f"kernel_size={kernel_size}, group_size={group_size}, "
                         f"scale_factor={s}, got {list(masks)}")
    if mask_device != device:
        raise ValueError(f"carafe: features are on {device}, masks on {mask_device}")
    return _reason(shape, stride, dtype, masks, mask_stride, mask_dtype, kernel_size, scale_factor)


_checked = lru_cache(maxsize=512, typed=True)(_check)


def carafe(features: Tensor, masks: Tensor, kernel_size: int, group_size: int = 1,
           scale_factor: int = 2, *, normalize: bool = False) -> Tensor:
    """Content-aware reassembly of features (CARAFE, arXiv 1905.02188).

    Args:
        features: [B, C, H, W].
        masks: [B, G k^2, s H, s W] reassembly kernels, group before row-major tap; with
            ``normalize`` [B, G k^2 s^2, H, W], as the content encoder makes them.
        kernel_size: k, odd.
        group_size: number G of groups of channels; each has kernels of its own.
        scale_factor: s, an integer.
        normalize: apply the pixel shuffle and the softmax over the k^2 weights here.

    Returns:
        [B, C, s H, s W]. Taps outside the map count as zero; weights are not renormalised there.

    Raises:
        ValueError: sizes, data types or devices do not fit.
        BackendError: the triton backend was asked for by name and cannot take the call.
    """
    sizes = (kernel_size, group_size, scale_factor, normalize)
    reason = (_check if tracing() else _checked)(
        features.shape, features.stride(), features.dtype, features.device,
        masks.shape, masks.stride(), masks.dtype, masks.device, *sizes)
    if not use_triton("carafe", features.device, reason):
        return carafe_reference(features, masks, *sizes)
    return _forward(features, masks, *sizes)
