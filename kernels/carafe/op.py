"""CARAFE: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..common import dtype_reason, next_power_of_2
from ..dispatch import Reason, use_triton
from ..launch import dot_precision, launch
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
    return None


class _Config(NamedTuple):
    block_m: int
    block_k: int
    block_c: int
    num_warps: int
    num_stages: int


def _config(kind: str, channels: int, kernel_size: int, scale: int, dtype: torch.dtype) -> _Config:
    """Tiles and launch options of one kernel: ``fwd``, ``x`` or ``mask``.

    BLOCK_K is what BLOCK_M pixels reach. 16 source pixels, or as many output pixels as they make,
    keep the band about as wide as the taps: 20 of 32 columns for k = 5. Four warps would spill.
    """
    if kind == "x":
        block_m, reach = 16, scale * (16 + kernel_size - 1)
    else:
        block_m = next_power_of_2(16 * scale, 16) if scale != 3 else 32
        reach = (block_m - 1) // scale + 1 + (block_m % scale != 0) + kernel_size - 1
    most = 64 if kind == "x" or dtype == torch.float32 else 128
    block_c = min(next_power_of_2(channels, 16), most)
    return _Config(block_m, next_power_of_2(reach, 16), block_c, 8, 2)


def _mask_strides(masks: Tensor, scale: int, normalize: bool) -> tuple[int, ...]:
    """Strides of the weights by batch, tap, source row, row in it, source column, column in it."""
    b, c, h, w = masks.stride()
    if normalize:
        return b, c * scale * scale, h, c * scale, w, c
    return b, c, h * scale, h, w * scale, w


@torch.library.custom_op("fastdet::carafe", mutates_args=())
def _forward(features: Tensor, masks: Tensor, kernel_size: int, group_size: int,
             scale_factor: int, normalize: bool) -> tuple[Tensor, Tensor]:
    from .kernel import carafe_fwd_kernel

    b, c, h, w = features.shape
    k, s = kernel_size, scale_factor
    masks = masks.contiguous()
    out = features.new_empty(b, c, h * s, w * s)
    lse = features.new_empty((b, group_size, h * s, w * s) if normalize else (0,),
                             dtype=torch.float32)
    config = _config("fwd", c // group_size, k, s, features.dtype)
    grid = (h * s * -(-w * s // config.block_m), -(-c // group_size // config.block_c),
            b * group_size)
    launch(carafe_fwd_kernel, grid, features, masks, out, lse, h, w, c, group_size,
           *features.stride(), *_mask_strides(masks, s, normalize), *out.stride(),
           device=features.device, K=k, S=s, NORMALIZE=int(normalize),
           PRECISION=dot_precision(features.dtype), BLOCK_M=config.block_m,
           BLOCK_K=config.block_k, BLOCK_C=config.block_c, num_warps=config.num_warps,
           num_stages=config.num_stages)
    return out, lse


@_forward.register_fake
def _(features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int,
      normalize: bool) -> tuple[Tensor, Tensor]:
    b, c, h, w = features.shape
    high = (h * scale_factor, w * scale_factor)
    return (features.new_empty(b, c, *high),
            features.new_empty((b, group_size, *high) if normalize else (0,), dtype=torch.float32))


@torch.library.custom_op("fastdet::carafe_backward", mutates_args=())
def _backward(grad: Tensor, features: Tensor, masks: Tensor, out: Tensor, lse: Tensor,
              kernel_size: int, group_size: int, scale_factor: int, normalize: bool,
              needs_x: bool, needs_mask: bool) -> tuple[Tensor, Tensor]:
    from .kernel import carafe_bwd_mask_kernel, carafe_bwd_x_kernel

    b, c, h, w = features.shape
    k, s, g = kernel_size, scale_factor, group_size
    masks = masks.contiguous()
    strides = _mask_strides(masks, s, normalize)

    def options(kind: str) -> dict[str, Any]:
        config = _config(kind, c // g, k, s, features.dtype)
        return {"device": features.device, "K": k, "S": s, "NORMALIZE": int(normalize),
                "PRECISION": dot_precision(features.dtype), "BLOCK_M": config.block_m,
                "BLOCK_K": config.block_k, "BLOCK_C": config.block_c,
                "num_warps": config.num_warps, "num_stages": config.num_stages}

    dx = torch.empty_like(features) if needs_x else features.new_empty(0)
    if needs_x:
        at = options("x")
        grid = (h * -(-w // at["BLOCK_M"]), -(-c // g // at["BLOCK_C"]), b * g)
        launch(carafe_bwd_x_kernel, grid, grad, masks, lse, dx, h, w, c, g, *grad.stride(),
               *strides, *dx.stride(), **at)
    dmask = torch.empty_like(masks) if needs_mask else masks.new_empty(0)
    if needs_mask:
        at = options("mask")
        rows = h * s * -(-w * s // at["BLOCK_M"])
        launch(carafe_bwd_mask_kernel, (rows, b * g), features, masks, out, lse, grad, dmask, h, w,
               c, g, *features.stride(), *strides, *out.stride(), *grad.stride(), **at)
    return dx, dmask


@_backward.register_fake
def _(grad: Tensor, features: Tensor, masks: Tensor, out: Tensor, lse: Tensor, kernel_size: int,
      group_size: int, scale_factor: int, normalize: bool, needs_x: bool, needs_mask: bool
      ) -> tuple[Tensor, Tensor]:
    return (torch.empty_like(features) if needs_x else features.new_empty(0),
            torch.empty_like(masks, memory_format=torch.contiguous_format) if needs_mask
            else masks.new_empty(0))


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    features, masks, *ctx.rest = inputs
    ctx.save_for_backward(features, masks, *output)
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
