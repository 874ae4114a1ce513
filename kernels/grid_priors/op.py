"""Grid priors: checks, dispatch and launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..common import dtype_reason
from ..dispatch import Reason, tracing, use_triton
from ..launch import launch
from ..pyramid import (
    MAX_LEVELS,
    check_levels,
    chunks,
    flatten,
    grid_reason,
    level_rows,
    level_words,
    num_blocks,
    pairs,
)
from .cpu import grid_anchors_cpu, grid_points_cpu
from .reference import grid_anchors_reference, grid_points_reference

__all__ = ["can_run_grid_priors", "check_rows", "grid_anchors", "grid_points"]

#: Rows that one program writes: 8 numbers a thread for boxes, and for the 201,600 anchors of
#: RetinaNet at 800x1344 six waves on 132 multiprocessors.
BLOCK = 256
OPTIONS = {"BLOCK": BLOCK, "num_warps": 4, "enable_fp_fusion": False}


def can_run_grid_priors(dtype: torch.dtype, counts: Sequence[int],
                        sizes: Sequence[tuple[int, int]]) -> Reason | None:
    """Why the kernels cannot write this grid of priors, or ``None`` if they can."""
    return dtype_reason(dtype) or grid_reason(sizes, counts)


def check_rows(rows: Tensor, count: int) -> None:
    """Refuse row numbers that a grid does not have, where reading them makes nobody wait.

    Args:
        rows: numbers of rows; on a GPU, and while a call is traced, they are not read.
        count: rows of the grid.

    Raises:
        ValueError: a row number is negative or not below ``count``.
    """
    if rows.device.type != "cpu" or tracing() or rows.numel() == 0:
        return
    least, most = (int(n) for n in rows.aminmax())
    if least < 0 or most >= count:
        raise ValueError(f"prior_idxs must lie in 0..{count - 1}, the rows of the level, got "
                         f"{least if least < 0 else most}")


def grid_anchors(base_anchors: Tensor, counts: Sequence[int], sizes: Sequence[tuple[int, int]],
                 strides: Sequence[tuple[float, float]]) -> Tensor:
    """Shift base anchors to every cell of every level of a feature pyramid.

    One kernel launch writes all levels (eight levels a launch). Sizes and strides travel as
    kernel parameters: no copy, no synchronisation, and no new compilation for a new size.

    Args:
        base_anchors: [sum of counts, 4], the levels' base anchors one after the other, as
            (x1, y1, x2, y2) in pixels around the cell at (0, 0). Its data type and device are
            those of the result.
        counts: base anchors of each level.
        sizes: (height, width) of each level's feature map.
        strides: (x, y) pixels from one cell to the next, of each level.

    Returns:
        [N, 4], ordered by level, y, x and base anchor; :func:`split_levels` gives the levels.
        No gradient flows to ``base_anchors``.

    Raises:
        ValueError: tables of different lengths, a negative size, or base anchors of another shape.
    """
    check_levels(sizes, counts=counts, strides=strides)
    if base_anchors.dim() != 2 or base_anchors.shape != (sum(counts), 4):
        raise ValueError(f"base_anchors must be [{sum(counts)}, 4] for counts {list(counts)}, "
                         f"got {list(base_anchors.shape)}")
    if not base_anchors.is_floating_point():
        raise ValueError(f"base_anchors must be of a floating point type, got {base_anchors.dtype}")
    run = _anchors_op if tracing() or type(base_anchors) is not Tensor else _grid_anchors
    return run(base_anchors.detach(), list(counts), flatten(sizes),
               [float(s) for s in flatten(strides)])


# The reference stands inside the operator too: a compiler that saw its operations would fuse
# them and skip the roundings between them.
def _grid_anchors(base_anchors: Tensor, counts: Sequence[int], sizes: Sequence[int],
                  strides: Sequence[float]) -> Tensor:
    levels, steps = pairs(sizes), pairs(strides)
    reason = can_run_grid_priors(base_anchors.dtype, counts, levels)
    if not use_triton("grid_priors", base_anchors.device, reason):
        on_cpu = base_anchors.device.type == "cpu"
        make = grid_anchors_cpu if on_cpu else grid_anchors_reference
        return make(base_anchors, counts, levels, steps)

    from .kernel import grid_anchors_fwd_kernel

    rows = level_rows(levels, counts)
    out = base_anchors.new_empty(sum(rows), 4)
    base_anchors = base_anchors.contiguous()
    for part in chunks(len(rows), MAX_LEVELS):
        launch(grid_anchors_fwd_kernel, (num_blocks(rows[part], BLOCK),),
               out[sum(rows[:part.start]):], base_anchors[sum(counts[:part.start]):],
               *level_words(levels[part], counts[part]), *_stride_arguments(steps[part]),
               device=out.device, **OPTIONS)
    return out


_anchors_op = torch.library.custom_op(
    "fastdet::grid_anchors", _grid_anchors, mutates_args=(),
    schema="(Tensor base_anchors, int[] counts, SymInt[] sizes, float[] strides) -> Tensor")


@_anchors_op.register_fake
def _(base_anchors: Tensor, counts: Sequence[int], sizes: Sequence[int],
      strides: Sequence[float]) -> Tensor:
    return base_anchors.new_empty(sum(level_rows(pairs(sizes), counts)), 4)


def grid_points(sizes: Sequence[tuple[int, int]], strides: Sequence[tuple[float, float]],
                offset: float = 0.5, *, stride_columns: int = 0,
                dtype: torch.dtype = torch.float32,
                device: torch.device | str = "cpu") -> Tensor:
    """The point ``(x + offset, y + offset) * stride`` of every cell of every level.

    Computed in float32 and rounded once to ``dtype``. One kernel launch writes all levels, as in
    :func:`grid_anchors`.

    Args:
        sizes: (height, width) of each level's feature map.
        strides: (x, y) pixels from one cell to the next, of each level.
        offset: where in its cell the point lies, in cells.
        stride_columns: columns that repeat the stride after the point's: 0, 1 (x) or 2 (x, y).
        dtype: data type of the result.
        device: where the result lies.

    Returns:
        [N, 2 + stride_columns], ordered by level, y and x.

    Raises:
        ValueError: tables of different lengths, a negative size, another ``stride_columns``, or
            a ``dtype`` that is no floating point type.
    """
    check_levels(sizes, strides=strides)
    if stride_columns not in (0, 1, 2):
        raise ValueError(f"stride_columns must be 0, 1 or 2, got {stride_columns!r}")
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating point type, got {dtype}")
    run = _points_op if tracing() else _grid_points
    return run(flatten(sizes), [float(s) for s in flatten(strides)], float(offset),
               stride_columns, dtype, torch.device(device))


def _grid_points(sizes: Sequence[int], strides: Sequence[float], offset: float,
                 stride_columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    levels, steps = pairs(sizes), pairs(strides)
    ones = [1] * len(levels)
    if not use_triton("grid_priors", device, can_run_grid_priors(dtype, ones, levels)):
        if device.type == "cpu":
            return grid_points_cpu(levels, steps, offset, stride_columns, dtype)
        return grid_points_reference(levels, steps, offset, stride_columns, dtype, device)

    from .kernel import grid_points_fwd_kernel

    rows = level_rows(levels, ones)
    out = torch.empty(sum(rows), 2 + stride_columns, dtype=dtype, device=device)
    for part in chunks(len(rows), MAX_LEVELS):
        launch(grid_points_fwd_kernel, (num_blocks(rows[part], BLOCK),),
               out[sum(rows[:part.start]):], *level_words(levels[part], ones[part]),
               *_stride_arguments(steps[part]), offset, device=out.device,
               D=2 + stride_columns, BLOCK_D=4 if stride_columns else 2, **OPTIONS)
    return out


_points_op = torch.library.custom_op(
    "fastdet::grid_points", _grid_points, mutates_args=(),
    schema="(SymInt[] sizes, float[] strides, float offset, int stride_columns, "
           "ScalarType dtype, Device device) -> Tensor")


@_points_op.register_fake
def _(sizes: Sequence[int], strides: Sequence[float], offset: float, stride_columns: int,
      dtype: torch.dtype, device: torch.device) -> Tensor:
    rows = sum(h * w for h, w in pairs(sizes))
    return torch.empty(rows, 2 + stride_columns, dtype=dtype, device=device)


def _stride_arguments(strides: Sequence[tuple[float, float]]) -> list[float]:
    pad = [0.0] * (MAX_LEVELS - len(strides))
    return [x for x, _ in strides] + pad + [y for _, y in strides] + pad
