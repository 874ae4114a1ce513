"""Multi-scale deformable attention: checks, dispatch, launches, autograd and registration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..autograd import operator
from ..common import dtype_reason, next_power_of_2, optional_empty
from ..dispatch import Reason, tracing, use_triton
from ..fixed_point import fixed_point_scale
from ..launch import Prepared, program
from ..pyramid import level_table
from .cpu import connect, multi_scale_deformable_attention_torch

__all__ = ["can_run_multi_scale_deformable_attention", "multi_scale_deformable_attention"]

NAME = "multi_scale_deformable_attention"

#: The points of a level are unrolled; more than this would only grow the code.
MAX_POINTS = 16


def can_run_multi_scale_deformable_attention(value: Tensor, sampling_locations: Tensor,
                                             attention_weights: Tensor) -> Reason | None:
    """Why the Triton kernels cannot take a call, in one sentence, or ``None`` if they can."""
    return _reason(value.shape, sampling_locations.shape, value.dtype, sampling_locations.dtype,
                   attention_weights.dtype)


def _reason(value: torch.Size, places: torch.Size, *dtypes: torch.dtype) -> Reason | None:
    if reason := dtype_reason(*dtypes):
        return reason
    if not 1 <= value[3] <= 256:
        return f"its kernels take heads of 1 to 256 channels, not {value[3]}"
    if places[4] > MAX_POINTS:
        return f"its kernels take up to {MAX_POINTS} points on a level, not {places[4]}"
    if value[0] > 65535 or value[1] >= 2**31:
        return "its kernels count up to 65535 images and 2^31 places in one"
    return None


class _Config(NamedTuple):
    block_q: int
    block_d: int
    num_warps: int


def _config(kind: str, d: int, dtype: torch.dtype) -> _Config:
    """Queries and channels of a program: ``fwd`` or ``bwd``.

    A thread of the forward loads 16 bytes of a gathered row. One of the backward has the four
    channels that an atomic addition takes at once, so that nothing moves between threads.
    """
    block_d = next_power_of_2(d)
    num_warps = 4
    each = 8 if kind == "fwd" and dtype != torch.float32 else 4
    return _Config(min(num_warps * 32 * each // block_d, 64), block_d, num_warps)


def _rows(t: Tensor) -> Tensor:
    """``t`` in memory as it is if that is whole, by image or by row first, else contiguous."""
    return t if t.is_contiguous() or t.transpose(0, 1).is_contiguous() else t.contiguous()


@lru_cache(maxsize=512)
def _plan(kind: str, value: torch.Size, places: torch.Size, dtype: torch.dtype,
          strides: tuple[tuple[int, ...], ...], **needs: int) -> Prepared:
    """The launch of a call of such sizes, which takes its tensors."""
    from . import kernel

    B, K, heads, d = value
    Q, L, P = places[1], *places[3:5]
    config = _config(kind, d, dtype)
    by_image_and_row = [step for each in strides for step in each[:2]]
    return program(
        getattr(kernel, f"multi_scale_deformable_attention_{kind}_kernel"), HEADS=heads, D=d, L=L,
        P=P, BLOCK_Q=config.block_q, BLOCK_D=config.block_d, num_warps=config.num_warps, **needs,
    ).at((-(-Q // config.block_q) * heads, B), K, Q, *by_image_and_row)


@operator(
    "multi_scale_deformable_attention",
    "(Tensor value, Tensor sizes, Tensor starts, Tensor places, Tensor weights) -> Tensor")
def _forward(value: Tensor, sizes: Tensor, starts: Tensor, places: Tensor, weights: Tensor
             ) -> Tensor:
    value, places, weights = _rows(value), _rows(places), _rows(weights)
    B, _, heads, d = value.shape
    out = value.new_empty(B, places.shape[1], heads * d)
    _plan("fwd", value.shape, places.shape, value.dtype,
          (value.stride(), places.stride(), weights.stride()))(
        value, sizes.contiguous(), starts.contiguous(), places, weights, out, device=value.device)
    return out


@_forward.register_fake
def _(value: Tensor, _sizes: Tensor, _starts: Tensor, places: Tensor, _weights: Tensor) -> Tensor:
    return value.new_empty(value.shape[0], places.shape[1], value.shape[2] * value.shape[3])


def _fixed_point(grad: Tensor, weights: Tensor) -> Tensor:
    """The unit of value's gradient: a pixel gets at most one share of each place of a query."""
    most = grad.abs().amax().double() * weights.abs().sum((3, 4), dtype=torch.float64).amax()
    return fixed_point_scale(most * grad.shape[1])


@operator(
    "multi_scale_deformable_attention_backward",
    "(Tensor grad, Tensor value, Tensor sizes, Tensor starts, Tensor places, Tensor weights, "
    "bool needs_value, bool needs_place) -> (Tensor, Tensor, Tensor)")
def _backward(grad: Tensor, value: Tensor, sizes: Tensor, starts: Tensor, places: Tensor,
              weights: Tensor, needs_value: bool, needs_place: bool
              ) -> tuple[Tensor, Tensor, Tensor]:
    grad = grad.contiguous()
    value, places, weights = _rows(value), _rows(places), _rows(weights)
    fixed = needs_value and grad.numel() > 0 and torch.are_deterministic_algorithms_enabled()
    scale = _fixed_point(grad, weights) if fixed else grad
    dvalue = (torch.zeros_like(value, dtype=torch.int64 if fixed else torch.float32)
              if needs_value else value.new_empty(0))
    dplaces, dweights = (optional_empty(t, needs_place) for t in (places, weights))
    _plan("bwd", value.shape, places.shape, value.dtype,
          (value.stride(), places.stride(), weights.stride()), NEEDS_VALUE=int(needs_value),
          NEEDS_PLACE=int(needs_place), FIXED=int(fixed))(
        value, sizes.contiguous(), starts.contiguous(), places, weights, grad, scale, dvalue,
        dplaces, dweights, device=value.device)
    if fixed:
        dvalue = dvalue.double() / scale
    return dvalue.to(value.dtype), dplaces, dweights


@_backward.register_fake
def _(grad: Tensor, value: Tensor, sizes: Tensor, starts: Tensor, places: Tensor, weights: Tensor,
      needs_value: bool, needs_place: bool) -> tuple[Tensor, Tensor, Tensor]:
    needs = (needs_value, needs_place, needs_place)
    dvalue, dplaces, dweights = (
        torch.empty_like(_rows(t)) if needed else t.new_empty(0)
        for t, needed in zip((value, places, weights), needs))
    return dvalue, dplaces, dweights


connect(_forward, _backward)


def _check_levels(sizes: list[list[int]], starts: list[int], rows: int) -> None:
    for (h, w), start in zip(sizes, starts):
        if min(h, w, start) < 0 or start + h * w > rows:
            raise ValueError(f"{NAME}: a level of {h} x {w} from row {start} on does not lie "
                             f"within the {rows} rows of value")


def _check_tables(sizes: Tensor, starts: Tensor, rows: int, L: int) -> None:
    """Refuse tables of another form, and on a CPU levels that do not lie within ``rows`` rows."""
    for name, table, want in (("spatial_shapes", sizes, (L, 2)),
                              ("level_start_index", starts, (L,))):
        if table.shape != want or table.is_floating_point():
            raise ValueError(f"{NAME}: {name} must be integers {list(want)} for {L} levels of "
                             f"sampling_locations, got {table.dtype} {list(table.shape)}")
    if sizes.device.type == "cpu" and not tracing():
        _check_levels(sizes.tolist(), starts.tolist(), rows)


#: The tables of :func:`_table`, which nobody else sees, and how many are kept.
_tables: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}
_MOST_TABLES = 64


def _table(spatial_shapes: Sequence[tuple[int, int]], rows: int, L: int, device: torch.device,
           traced: bool) -> tuple[Tensor, Tensor]:
    """Checked tables of sizes that the host knows, made once on each stream.

    What a graph replays or a trace records has to be made in it, and what is made in inference mode
    cannot be saved for a backward pass.
    """
    on_gpu = device.type == "cuda"
    if traced or torch.is_inference_mode_enabled() or (
            on_gpu and torch.cuda.is_current_stream_capturing()):
        return _fresh_table(spatial_shapes, rows, L, device)
    key = (tuple(map(tuple, spatial_shapes)), rows, L, device,
           torch.cuda.current_stream(device) if on_gpu else None)
    tables = _tables.get(key)
    if tables is None:
        tables = _fresh_table(spatial_shapes, rows, L, device)
        if len(_tables) >= _MOST_TABLES:
            _tables.clear()
        _tables[key] = tables
    return tables


def _fresh_table(spatial_shapes: Sequence[tuple[int, int]], rows: int, L: int,
                 device: torch.device) -> tuple[Tensor, Tensor]:
    if len(spatial_shapes) != L:
        raise ValueError(f"{NAME}: spatial_shapes must hold {L} levels, as sampling_locations "
                         f"does, got {spatial_shapes}")
    tables = level_table(spatial_shapes, device)
    _check_tables(*tables, rows, L)
    return tables


def _levels(spatial_shapes: Tensor | Sequence[tuple[int, int]],
            level_start_index: Tensor | Sequence[int] | None, value: Tensor, L: int,
            traced: bool) -> tuple[Tensor, Tensor]:
    """Sizes and first rows as tensors on the device of ``value``; checked where the host has them.
    """
    device, rows = value.device, value.shape[1]
    if isinstance(spatial_shapes, Tensor):
        sizes = spatial_shapes.to(device)
    elif level_start_index is None:
        return _table(spatial_shapes, rows, L, device, traced)
    else:
        sizes = level_table(spatial_shapes, device)[0]
    if level_start_index is None:
        starts = sizes[..., 0] * sizes[..., 1]
        starts = starts.cumsum(0) - starts
    else:
        starts = torch.as_tensor(level_start_index, device=device)
    _check_tables(sizes, starts, rows, L)
    return sizes, starts


def _check(value: torch.Size, places: torch.Size, weights: torch.Size,
           dtypes: tuple[torch.dtype, ...], devices: tuple[torch.device, ...]) -> Reason | None:
    """Refuse what does not fit, and why the kernels cannot take the call, if they cannot."""
    if len(value) != 4 or len(places) != 6 or places[5] != 2:
        raise ValueError(f"{NAME}: value must be [B, K, heads, d] and sampling_locations "
                         f"[B, Q, heads, L, P, 2], got {list(value)} and {list(places)}")
    if 0 in places[3:5]:
        raise ValueError(f"{NAME}: sampling_locations must have at least one level and one point, "
                         f"got {list(places)}")
    B, heads = value[0], value[2]
    if places[0] != B or places[2] != heads or weights != places[:5]:
        raise ValueError(f"{NAME}: for value {list(value)} expected sampling_locations "
                         f"[{B}, Q, {heads}, L, P, 2] and attention_weights [{B}, Q, {heads}, L, "
                         f"P], got {list(places)} and {list(weights)}")
    for name, dtype, device in zip(("value", "sampling_locations", "attention_weights"), dtypes,
                                   devices):
        if not dtype.is_floating_point or device != devices[0]:
            raise ValueError(f"{NAME}: {name} must be floating-point on {devices[0]}, got "
                             f"{dtype} on {device}")
    return _reason(value, places, *dtypes)


_checked = lru_cache(maxsize=512)(_check)


def multi_scale_deformable_attention(
        value: Tensor, spatial_shapes: Tensor | Sequence[tuple[int, int]],
        level_start_index: Tensor | Sequence[int] | None, sampling_locations: Tensor,
        attention_weights: Tensor) -> Tensor:
    """Attention over a few sampled places of every level (Deformable DETR, arXiv 2010.04159).

    ``out[b, q, h] = sum over l, p of attention_weights[b, q, h, l, p] *
    value_l[b, h](sampling_locations[b, q, h, l, p])``, level ``l`` of ``value`` interpolated
    bilinearly between its pixels and zero outside; the centre of its pixel (x, y) lies at
    ((x + 0.5) / width, (y + 0.5) / height). A place that is a whole pixel or more outside does not
    count. Nothing waits for the device; in turn, sizes that live on a GPU are not checked: there
    a level that does not lie within ``value`` counts as empty.

    Args:
        value: [B, K, heads, d], the pixels of all levels, row by row.
        spatial_shapes: [L, 2] integers, (height, width) of every level; a tensor or a list.
        level_start_index: [L] integers, the first row of every level in ``value``; ``None`` for
            levels that follow each other.
        sampling_locations: [B, Q, heads, L, P, 2] as (x, y); [0, 1] spans the level.
        attention_weights: [B, Q, heads, L, P].

    Returns:
        [B, Q, heads * d] of the type of ``value``. Coordinates are in float32 at least.

    Raises:
        ValueError: a shape, type or device is not as above.
        BackendError: the triton backend was asked for by name and cannot take the call.
    """
    traced, device = tracing(), value.device
    reason = (_check if traced else _checked)(
        value.shape, sampling_locations.shape, attention_weights.shape,
        (value.dtype, sampling_locations.dtype, attention_weights.dtype),
        (device, sampling_locations.device, attention_weights.device))
    sizes, starts = _levels(spatial_shapes, level_start_index, value, sampling_locations.shape[3],
                            traced)
    if not use_triton(NAME, device, reason):
        return multi_scale_deformable_attention_torch(value, sizes, starts, sampling_locations,
                                                      attention_weights)
    return _forward(value, sizes, starts, sampling_locations, attention_weights)
