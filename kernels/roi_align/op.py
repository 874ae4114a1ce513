"""RoIAlign: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import operator
from ..common import DTYPES, Form, form, next_power_of_2
from ..dispatch import Reason, tracing, use_triton
from ..launch import Prepared, program
from .cpu import roi_align_cpu, roi_align_cpu_backward
from .reference import Geometry, roi_align_reference, roi_geometry, roi_levels

__all__ = ["can_run_roi_align", "multi_level_roi_align", "roi_align"]

#: The kernels take the maps as that many pointers.
MAX_LEVELS = 5

#: Pixels along each side of the tile of a map that a program of the backward owns.
TILE = 8

#: Regions that a program of the order looks at at a time.
BLOCK_ORDER = 1024


def can_run_roi_align(feats: Sequence[Tensor], rois: Tensor) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    return _reason([form(feat) for feat in feats], rois.dtype)


def _reason(feats: Sequence[Form], dtype: torch.dtype) -> Reason | None:
    for kind in (*(feat.dtype for feat in feats), dtype):
        if kind not in DTYPES:
            return f"its kernels take float32, float16 and bfloat16, not {kind}"
    if len(feats) > MAX_LEVELS:
        return f"its kernels take up to {MAX_LEVELS} levels, not {len(feats)}"
    if max(max(feat.shape[2:]) for feat in feats) >= 2**24:
        return "its kernels count up to 2^24 pixels along a side"
    return None


def _is_last(feat: Tensor) -> bool:
    """Whether a map lies channels last in memory, and not in the usual order too."""
    return (not feat.is_contiguous()) and feat.is_contiguous(memory_format=torch.channels_last)


def _channels(c: int, most: int) -> int:
    """Channels of a program."""
    return max(16, min(most, 1 << (c - 1).bit_length()))


class _Forward(NamedTuple):
    """What the forward launches of all numbers of regions have in common."""

    run: Prepared
    chunks: int  # of a region's bins
    blocks: int  # of channels


@lru_cache(maxsize=1024)
def _plan_forward(shapes: tuple[torch.Size, ...], dtype: torch.dtype, scales: tuple[float, ...],
                  bins: tuple[int, int], sampling_ratio: int, maximum: bool, aligned: bool,
                  finest_scale: float, has_levels: bool) -> _Forward:
    from .kernel import roi_align_fwd_kernel

    rest = MAX_LEVELS - len(shapes)
    sizes = [s for shape in (*shapes, *[shapes[-1]] * rest) for s in shape[2:]]
    (b, c), n = shapes[0][:2], bins[0] * bins[1]
    # 128 bytes of a pixel, and 16 of them for each thread.
    block_c = _channels(c, 128 // dtype.itemsize)
    block_p = min(32 if dtype.itemsize == 4 else 16, next_power_of_2(n))
    run = program(
        roi_align_fwd_kernel, L=len(shapes), PH=bins[0], PW=bins[1], SAMPLES=sampling_ratio,
        MAXIMUM=int(maximum), ALIGNED=int(aligned), HAS_LEVELS=int(has_levels), BLOCK_P=block_p,
        BLOCK_C=block_c, num_warps=4)
    chunks, blocks = -(-n // block_p), -(-c // block_c)
    return _Forward(run.at((chunks, blocks), *sizes, *scales, *[0.0] * rest, finest_scale, b, c),
                    chunks, blocks)


@operator(
    "roi_align",
    "(Tensor[] feats, Tensor rois, Tensor? levels, float[] scales, SymInt bins_y, SymInt bins_x, "
    "SymInt sampling_ratio, bool maximum, bool aligned, float finest_scale, bool triton) "
    "-> (Tensor, Tensor, Tensor)", saved=2)
def _forward(feats: list[Tensor], rois: Tensor, levels: Tensor | None, scales: Sequence[float],
             bins_y: int, bins_x: int, sampling_ratio: int, maximum: bool, aligned: bool,
             finest_scale: float, triton: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The result, its :class:`Geometry`, and where the maxima are; the last two for backward."""
    if rois.dtype != torch.float32:
        rois = rois.to(torch.promote_types(rois.dtype, torch.float32))
    if not triton:
        if levels is None:
            levels = roi_levels(rois, len(feats), finest_scale)
        where = roi_geometry(rois, levels.to(rois.dtype), feats[0].shape[0], scales,
                                (bins_y, bins_x), sampling_ratio, aligned)
        out, found = roi_align_cpu(feats, where, (bins_y, bins_x), maximum)
        return out, where.pack(), found
    first = feats[0]
    plan = _plan_forward(tuple([feat.shape for feat in feats]), first.dtype, tuple(scales),
                         (bins_y, bins_x), sampling_ratio, maximum, aligned, finest_scale,
                         levels is not None)
    n, c = rois.shape[0], first.shape[1]
    out = first.new_empty((n, c, bins_y, bins_x))
    geometry = rois.new_empty((n, 8))
    found = rois.new_empty((2, n, c, bins_y, bins_x) if maximum else (0,))
    maps = [feat.contiguous(memory_format=torch.channels_last) for feat in feats]
    maps += [maps[-1]] * (MAX_LEVELS - len(maps))
    plan.run(*maps, rois.contiguous(),
             rois if levels is None else levels.float().contiguous(), out, geometry, found, n,
             grid=(n * plan.chunks, plan.blocks), device=rois.device)
    return out, geometry, found


@_forward.register_fake
def _(feats: list[Tensor], rois: Tensor, levels: Tensor | None, scales: list[float],
      bins_y: int, bins_x: int, sampling_ratio: int, maximum: bool, aligned: bool,
      finest_scale: float, triton: bool) -> tuple[Tensor, Tensor, Tensor]:
    out = feats[0].new_empty(rois.shape[0], feats[0].shape[1], bins_y, bins_x)
    dtype = torch.promote_types(rois.dtype, torch.float32)
    return (out, rois.new_empty(rois.shape[0], 8, dtype=dtype),
            out.new_empty((2, *out.shape) if maximum else (0,), dtype=dtype))


class _Level(NamedTuple):
    """What the backward launches of one level have in common for all numbers of regions."""

    shape: tuple[int, int, int, int]
    memory_format: torch.memory_format
    run: Prepared


class _Backward(NamedTuple):
    """What the backward launches of all numbers of regions have in common."""

    order: Prepared
    groups: int
    levels: tuple[_Level, ...]


@lru_cache(maxsize=1024)
def _plan_backward(sizes: tuple[int, ...], channels_last: tuple[bool, ...], c: int,
                   bins: tuple[int, int], dtype: torch.dtype, maximum: bool) -> _Backward:
    from . import kernel

    # Of maxima, whose places differ from channel to channel, 64 bytes of a pixel.
    block_c = _channels(c, 64 // dtype.itemsize if maximum else 64)
    gather = program(kernel.roi_align_bwd_kernel, PH=bins[0], PW=bins[1], MAXIMUM=int(maximum),
                     TILE=TILE, BLOCK_N=32, BLOCK_C=block_c, num_warps=4)
    levels = []
    for level, last in enumerate(channels_last):
        b, h, w = sizes[3 * level:3 * level + 3]
        strides = (c * h * w, 1, w * c, c) if last else (c * h * w, h * w, w, 1)
        levels.append(_Level(
            (b, c, h, w), torch.channels_last if last else torch.contiguous_format,
            gather.at((-(-h // TILE) * -(-w // TILE), b, -(-c // block_c)), h, w, c, level * b,
                      *strides)))
    order = program(kernel.roi_align_order_kernel, BLOCK_N=BLOCK_ORDER, num_warps=8)
    groups = len(levels) * sizes[0]
    return _Backward(order.at((groups + 1,), sizes[0]), groups, tuple(levels))


@operator("roi_align_backward", "(Tensor grad, Tensor geometry, Tensor found, SymInt[] sizes, "
          "bool[] channels_last, bool triton) -> Tensor[]")
def _backward(grad: Tensor, geometry: Tensor, found: Tensor, sizes: Sequence[int],
              channels_last: Sequence[bool], triton: bool) -> list[Tensor]:
    if not triton:
        shapes = [(sizes[i], sizes[i + 1], sizes[i + 2]) for i in range(0, len(sizes), 3)]
        return roi_align_cpu_backward(grad, Geometry.unpack(geometry), found, shapes,
                                      channels_last)
    (n, c, bins_y, bins_x), device, maximum = grad.shape, grad.device, found.numel() > 0
    plan = _plan_backward(tuple(sizes), tuple(channels_last), c, (bins_y, bins_x), grad.dtype,
                          maximum)
    # Regions by level and image, in their own order among each other: a tile's sums have one
    # order, and a program looks at the regions of its own map alone.
    ordered, order = torch.empty_like(geometry), geometry.new_empty(n, dtype=torch.int64)
    starts = geometry.new_empty(plan.groups + 1, dtype=torch.int32)
    plan.order(geometry, ordered, order, starts, n, device=device)
    grad = grad.contiguous(memory_format=torch.channels_last)
    if maximum:
        found = found.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    grads = []
    for shape, memory_format, run in plan.levels:
        dx = torch.empty(shape, dtype=grad.dtype, device=device, memory_format=memory_format)
        run(grad, ordered, order, found, starts, dx, n, device=device)
        grads.append(dx)
    return grads


@_backward.register_fake
def _(grad: Tensor, geometry: Tensor, found: Tensor, sizes: list[int], channels_last: list[bool],
      triton: bool) -> list[Tensor]:
    return [torch.empty((sizes[3 * i], grad.shape[1], sizes[3 * i + 1], sizes[3 * i + 2]),
                        dtype=grad.dtype, device=grad.device,
                        memory_format=torch.channels_last if last else torch.contiguous_format)
            for i, last in enumerate(channels_last)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    feats = inputs[0]
    ctx.save_for_backward(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.sizes = tuple([s for feat in feats for s in (feat.shape[0], *feat.shape[2:])])
    ctx.channels_last = tuple([_is_last(feat) for feat in feats])
    ctx.triton = inputs[-1]


def _autograd(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Any, ...]:
    grads: list[Tensor | None] = [None] * len(ctx.channels_last)
    if grad is not None:
        geometry, found = ctx.saved_tensors
        grads = _backward(grad, geometry, found, ctx.sizes, ctx.channels_last, ctx.triton)
    return (grads, *[None] * 10)


_forward.register_autograd(_autograd, setup_context=_setup_context)


def _pair(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(n, int) and n > 0 for n in pair):
        raise ValueError(f"{name}: output_size must be one or two positive integers, got {size!r}")
    return pair[0], pair[1]


def _check(name: str, feats: tuple[Form, ...], rois: torch.dtype, scales: tuple[float, ...],
           sampling_ratio: int, pool_mode: str, finest_scale: float) -> Reason | None:
    """Refuse what does not fit; why no kernel can run."""
    first = feats[0]
    for feat in feats:
        if len(feat.shape) != 4 or not feat.dtype.is_floating_point or 0 in feat.shape[2:]:
            raise ValueError(f"{name}: a map must be floating-point [B, C, H, W] of at least one "
                             f"pixel, got {feat.dtype} {list(feat.shape)}")
        if feat.shape[:2] != first.shape[:2] or feat.dtype != first.dtype or \
                feat.device != first.device:
            raise ValueError(f"{name}: all maps must have the images, channels, type and device "
                             f"of the first, {list(first.shape[:2])} {first.dtype} "
                             f"{first.device}, got {list(feat.shape[:2])} {feat.dtype} "
                             f"{feat.device}")
    if pool_mode not in ("avg", "max"):
        raise ValueError(f"{name}: pool_mode must be 'avg' or 'max', got {pool_mode!r}")
    if sampling_ratio < 0:
        raise ValueError(f"{name}: sampling_ratio must not be negative, got {sampling_ratio}")
    if not (finest_scale > 0 and all(s > 0 and math.isfinite(s) for s in scales)):
        raise ValueError(f"{name}: scales must be positive, got finest_scale={finest_scale}, "
                         f"spatial_scales={list(scales)}")
    return _reason(feats, rois)


#: The same with a memory for those of other maps; a trace has sizes that are no numbers.
_checked = lru_cache(maxsize=2048)(_check)


def _check_images(name: str, rois: Tensor, images: int) -> None:
    """Refuse regions of images that are not there, where reading them makes nobody wait."""
    of = rois[:, 0]
    low, high = of.aminmax()
    if not (low >= 0 and high < images):  # one is NaN where any number is
        wrong = ~((of >= 0) & (of < images))
        raise ValueError(f"{name}: image {of[wrong][0].item():g} of a region is not one of the "
                         f"{images} of the maps")


def multi_level_roi_align(
        feats: Sequence[Tensor], rois: Tensor, output_size: int | Sequence[int],
        spatial_scales: Sequence[float], sampling_ratio: int = 0, pool_mode: str = "avg",
        aligned: bool = True, finest_scale: float = 56, levels: Tensor | None = None) -> Tensor:
    """RoIAlign over a pyramid, each region on the level that fits its size (FPN, arXiv 1612.03144).

    A region of area A reads level ``floor(log2(sqrt(A) / finest_scale + 1e-6))``, clamped to those
    that there are. All levels run at once, and nothing waits for the device; in turn, on a GPU a
    region of an image that is not there gives what a region without samples does, instead of an
    error. Gradients, too, are bit for bit the same in each run.

    Args:
        feats: maps ``[B, C, H_l, W_l]``, the finest first; channels last is read as it lies.
        rois: ``[N, 5]``: image, x1, y1, x2, y2 in pixels of the image. They get no gradient.
            Coordinates are in float32 at least; a region with one that is NaN, or more than 2^29
            pixels from the origin, takes no samples.
        output_size: bins along y and x.
        spatial_scales: pixels of each map in a pixel of the image, ``1 / stride``.
        sampling_ratio: samples along each axis of a bin; 0 takes one for each begun pixel.
        pool_mode: ``'avg'`` or ``'max'`` of the samples.
        aligned: shift by half a pixel, as the centres of pixels lie, and let regions be smaller
            than a pixel.
        finest_scale: see above.
        levels: ``[N]``, a level for each region instead; one that is not there takes no samples.

    Returns:
        ``[N, C, *output_size]`` of the type of the maps. A sample more than a pixel outside the
        map is zero. A region without samples gives zeros, under ``'max'`` mmcv's -10000.

    Raises:
        ValueError: a shape, type or device is not as above; on a CPU, an image that is not there.
        BackendError: the triton backend was asked for by name and cannot take the call.

    Source: Mask R-CNN, https://arxiv.org/abs/1703.06870
    """
    return _run("multi_level_roi_align", feats, rois, output_size, spatial_scales, sampling_ratio,
                pool_mode, aligned, finest_scale, levels)


def roi_align(input: Tensor, rois: Tensor, output_size: int | Sequence[int],
              spatial_scale: float = 1.0, sampling_ratio: int = 0, pool_mode: str = "avg",
              aligned: bool = True) -> Tensor:
    """RoIAlign over one map: :func:`multi_level_roi_align` of a single level.

    Args:
        input: ``[B, C, H, W]``.
        rois: ``[N, 5]``: image, x1, y1, x2, y2.
        output_size: bins along y and x.
        spatial_scale: pixels of the map in a pixel of the boxes.
        sampling_ratio: samples along each axis of a bin; 0 takes one for each begun pixel.
        pool_mode: ``'avg'`` or ``'max'`` of the samples.
        aligned: shift by half a pixel, and let regions be smaller than a pixel.

    Returns:
        ``[N, C, *output_size]``.

    Raises:
        ValueError: a shape, type or device is not as above; on a CPU, an image that is not there.
        BackendError: the triton backend was asked for by name and cannot take the call.
    """
    levels = torch.zeros(rois.shape[:1], device=rois.device)
    return _run("roi_align", [input], rois, output_size, [spatial_scale], sampling_ratio,
                pool_mode, aligned, 1.0, levels)


def _run(name: str, feats: Sequence[Tensor], rois: Tensor, output_size: int | Sequence[int],
         spatial_scales: Sequence[float], sampling_ratio: int, pool_mode: str, aligned: bool,
         finest_scale: float, levels: Tensor | None) -> Tensor:
    feats, scales = list(feats), tuple(map(float, spatial_scales))
    if not feats or len(scales) != len(feats):
        raise ValueError(f"{name}: expected one spatial scale for each of one map or more, got "
                         f"{len(scales)} for {len(feats)} maps")
    reason = (_check if tracing() else _checked)(
        name, tuple(map(form, feats)), rois.dtype, scales, sampling_ratio, pool_mode, finest_scale)
    device = feats[0].device
    if rois.dim() != 2 or rois.shape[1] != 5 or not rois.is_floating_point() or \
            rois.device != device:
        raise ValueError(f"{name}: rois must be floating-point [N, 5] (image, x1, y1, x2, y2) on "
                         f"{device}, got {rois.dtype} {list(rois.shape)} on {rois.device}")
    bins = _pair(name, output_size)
    if levels is not None and levels.shape != rois.shape[:1]:
        raise ValueError(f"{name}: levels must be [{len(rois)}], one for each region, got "
                         f"{list(levels.shape)}")
    triton = use_triton("roi_align", device, reason)
    if not triton:
        if device.type != "cpu":
            return roi_align_reference(feats, rois, bins, scales, sampling_ratio, pool_mode,
                                       aligned, finest_scale, levels)
        if not tracing() and len(rois):
            _check_images(name, rois, feats[0].shape[0])
    return _forward(feats, rois.detach() if rois.requires_grad else rois, levels, scales, *bins,
                    int(sampling_ratio), pool_mode == "max", bool(aligned), float(finest_scale),
                    triton)
