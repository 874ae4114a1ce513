"""CARAFE: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import operator
from ..common import dtype_reason, next_power_of_2, optional_empty, options
from ..dispatch import Reason, use_triton
from ..launch import launch
from .reference import carafe_reference

__all__ = ["can_run_carafe", "carafe"]


def can_run_carafe(features: Tensor, masks: Tensor, kernel_size: int,
                   scale_factor: int) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    if reason := dtype_reason(features, masks):
        return reason
    if not 3 <= kernel_size <= 7 or not 1 <= scale_factor <= 4:
        return ("its kernels take kernels of 3 to 7 and scales of 1 to 4, "
                f"not {kernel_size} and {scale_factor}")
    if max(_extent(features), _extent(masks), features[:1].numel() * scale_factor**2) >= 2**31:
        return "its kernels take maps of fewer than 2^31 numbers an image"
    return None


def _extent(maps: Tensor) -> int:
    """How far apart the first and the last number of an image lie."""
    return sum((n - 1) * step for n, step in zip(maps.shape[1:], maps.stride()[1:]))


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


def _mask_strides(masks: Tensor, scale: int, normalize: bool) -> tuple[int, ...]:
    """Strides of the weights by batch, tap, source row, row in it, source column, column in it."""
    b, c, h, w = masks.stride()
    if normalize:
        return b, c * scale * scale, h, c * scale, w, c
    return b, c, h * scale, h, w * scale, w


def _dense(masks: Tensor) -> Tensor:
    """The weights in one of the two formats that ``empty_like`` keeps."""
    if masks.is_contiguous() or masks.is_contiguous(memory_format=torch.channels_last):
        return masks
    return masks.contiguous()


def _aligned(maps: Tensor, scale: int) -> bool:
    """Whether the ``scale`` columns of a source pixel are one access: all rows start at one."""
    b, c, h, w = maps.stride()
    return w == 1 and scale != 3 and not (b % scale or c % scale or h % scale)


def _empty_result(features: Tensor, scale: int) -> Tensor:
    """[B, C, s H, s W] in the memory format of the features."""
    b, c, h, w = features.shape
    last = not features.is_contiguous() and features.is_contiguous(
        memory_format=torch.channels_last)
    return torch.empty((b, c, h * scale, w * scale), dtype=features.dtype, device=features.device,
                       memory_format=torch.channels_last if last else torch.contiguous_format)


def _empty_lse(features: Tensor, group_size: int, scale: int, normalize: bool) -> Tensor:
    b, _, h, w = features.shape
    return features.new_empty((b, group_size, h * scale, w * scale) if normalize else (0,),
                              dtype=torch.float32)


@operator("carafe", "(Tensor features, Tensor masks, SymInt kernel_size, SymInt group_size, "
          "SymInt scale_factor, bool normalize) -> (Tensor, Tensor)")
def _forward(features: Tensor, masks: Tensor, kernel_size: int, group_size: int,
             scale_factor: int, normalize: bool) -> tuple[Tensor, Tensor]:
    from .kernel import carafe_fwd_kernel

    b, c, h, w = features.shape
    k, g, s = kernel_size, group_size, scale_factor
    out = _empty_result(features, s)
    lse = _empty_lse(features, g, s, normalize)
    config = _config("fwd", c // g, k, s)
    grid = (-(-h * w // config.block_p) * (1 if s == 2 else s), -(-c // g // config.block_c), b * g)
    launch(carafe_fwd_kernel, grid, features, masks, out, lse, h, w, c, g, *features.stride(),
           *_mask_strides(masks, s, normalize), *out.stride(), device=features.device, K=k, S=s,
           NORMALIZE=int(normalize), ALIGNED=int(_aligned(out, s)),
           EVEN_C=int(c // g % config.block_c == 0), BLOCK_T=next_power_of_2(k * k),
           **options(config))
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
    from .kernel import carafe_bwd_mask_kernel, carafe_bwd_x_kernel

    b, c, h, w = features.shape
    k, g, s = kernel_size, group_size, scale_factor
    masks = _dense(masks)
    grad = grad if _extent(grad) < 2**31 else grad.contiguous()
    strides = _mask_strides(masks, s, normalize)

    def common(config: _Config) -> dict[str, Any]:
        return {"device": features.device, "K": k, "S": s, "NORMALIZE": int(normalize),
                "ALIGNED": int(_aligned(grad, s)), "EVEN_C": int(c // g % config.block_c == 0),
                **options(config)}

    dx = optional_empty(features, needs_x)
    if needs_x:
        config = _config("x", c // g, k, s)
        grid: tuple[int, ...] = (-(-h * w // config.block_p), -(-c // g // config.block_c), b * g)
        launch(carafe_bwd_x_kernel, grid, grad, masks, lse, dx, h, w, c, g, *grad.stride(),
               *strides, *dx.stride(), **common(config))
    dmask = optional_empty(masks, needs_mask)
    if needs_mask:
        config = _config("mask", c // g, k, s)
        grid = (-(-h * w // config.block_p) * (1 if s == 2 else s), b * g)
        launch(carafe_bwd_mask_kernel, grid, features, masks, grad, dmask, h, w, c, g,
               *features.stride(), *strides, *grad.stride(), BLOCK_T=next_power_of_2(k * k),
               **common(config))
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


def _autograd(ctx: Any, grad: Tensor, _lse: Tensor) -> tuple[Any, ...]:
    needs_x, needs_mask = ctx.needs_input_grad[:2]
    dx, dmask = _backward(grad, *ctx.saved_tensors, *ctx.rest, needs_x, needs_mask)
    return (dx if needs_x else None, dmask if needs_mask else None, None, None, None, None)


_forward.register_autograd(_autograd, setup_context=_setup_context)


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
    if features.dim() != 4 or masks.dim() != 4 or not features.is_floating_point():
        raise ValueError("carafe: features and masks must be floating-point [B, C, H, W], got "
                         f"{features.dtype} {list(features.shape)} and {list(masks.shape)}")
    if kernel_size < 1 or kernel_size % 2 == 0 or scale_factor < 1 or group_size < 1:
        raise ValueError("carafe: kernel_size must be odd, group_size and scale_factor positive, "
                         f"got {kernel_size}, {group_size} and {scale_factor}")
    b, c, h, w = features.shape
    if c % group_size:
        raise ValueError(f"carafe: {c} channels do not divide into {group_size} groups")
    taps, s = group_size * kernel_size**2, scale_factor
    want = [b, taps * s * s, h, w] if normalize else [b, taps, h * s, w * s]
    if list(masks.shape) != want:
        raise ValueError(f"carafe: masks must be {want} for features {list(features.shape)} with "
                         f"kernel_size={kernel_size}, group_size={group_size}, "
                         f"scale_factor={s}, got {list(masks.shape)}")
    if masks.device != features.device:
        raise ValueError(f"carafe: features are on {features.device}, masks on {masks.device}")
    reason = can_run_carafe(features, masks, kernel_size, scale_factor)
    if not use_triton("carafe", features.device, reason):
        return carafe_reference(features, masks, kernel_size, group_size, s, normalize)
    return _forward(features, masks, kernel_size, group_size, s, normalize)[0]
