"""What fastdet's operators are in ONNX; needs ``onnxscript``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from onnxscript import BOOL, FLOAT, INT64
from onnxscript import opset18 as op

from fastdet.kernels.pyramid import pairs

__all__ = ["translations"]

TFloatOrInt = TypeVar("TFloatOrInt", FLOAT, INT64)

_FLOAT, _INT64, _BOOL = FLOAT.dtype, INT64.dtype, BOOL.dtype


def _axes(size: tuple[Any, Any]) -> tuple[Any, Any]:
    """Indices of a map's columns ``[1, W, 1]`` and rows ``[H, 1, 1]``, as floats."""
    down, across = (op.Range(op.Constant(value_int=0), n, op.Constant(value_int=1)) for n in size)
    return (op.Unsqueeze(op.Cast(across, to=_FLOAT), op.Constant(value_ints=[0, 2])),
            op.Unsqueeze(op.Cast(down, to=_FLOAT), op.Constant(value_ints=[1, 2])))


def _grid_anchors(base: FLOAT, counts: Sequence[int], sizes: Sequence[INT64],
                  strides: Sequence[float]) -> FLOAT:
    """``fastdet::grid_anchors``: every cell's place plus the base anchors ``[A, 4]``."""
    levels, first = [], 0
    for count, size, (stride_x, stride_y) in zip(counts, pairs(sizes), pairs(strides)):
        mine = op.Slice(base, op.Constant(value_ints=[first]),
                        op.Constant(value_ints=[first + count]))
        x, y = _axes(size)
        shift = (x * op.Constant(value_floats=[stride_x, 0.0, stride_x, 0.0])
                 + y * op.Constant(value_floats=[0.0, stride_y, 0.0, stride_y]))
        anchors = op.Unsqueeze(op.CastLike(shift, base), op.Constant(value_ints=[2])) + mine
        levels.append(op.Reshape(anchors, op.Constant(value_ints=[-1, 4])))
        first += count
    return op.Concat(*levels, axis=0)


def _grid_points(sizes: Sequence[INT64], strides: Sequence[float], offset: float,
                 stride_columns: int, dtype: int, device: str) -> FLOAT:
    """``fastdet::grid_points``: ``(index + offset) * stride`` of every cell."""
    levels = []
    for size, (stride_x, stride_y) in zip(pairs(sizes), pairs(strides)):
        x, y = (axis + op.Constant(value_float=offset) for axis in _axes(size))
        point = (x * op.Constant(value_floats=[stride_x, 0.0])
                 + y * op.Constant(value_floats=[0.0, stride_y]))
        point = op.Pad(op.Reshape(point, op.Constant(value_ints=[-1, 2])),
                       op.Constant(value_ints=[0, 0, 0, stride_columns]))
        columns = [0.0, 0.0, stride_x, stride_y][:2 + stride_columns]
        levels.append(point + op.Constant(value_floats=columns))
    return op.Cast(op.Concat(*levels, axis=0), to=dtype)


def _nms(boxes: FLOAT, groups: INT64, rank: INT64, iou_threshold: float, offset: int,
         limit: int) -> BOOL:
    """``fastdet::nms``, with the standard's ``NonMaxSuppression``.

    Both keep a box unless a kept one of its group with a higher score overlaps it by *more* than
    the threshold. What the standard leaves open is settled before: its scores are ranks, so that
    no two are equal, and its classes are the groups, so that no coordinate is moved. A box that
    takes no part has the largest integer as its group, and is of no class.
    """
    boxes = op.Cast(boxes, to=_FLOAT)
    if offset:
        boxes = boxes + op.Constant(value_floats=[0.0, 0.0, 1.0, 1.0])
    count = op.Shape(groups, start=1, end=2)
    there = groups < op.Constant(value_int=torch.iinfo(torch.int64).max)
    last = op.ReduceMax(op.Where(there, groups, op.Constant(value_int=0)), keepdims=0)
    classes = op.Range(op.Constant(value_int=0), last + op.Constant(value_int=1),
                       op.Constant(value_int=1))
    mine = op.Equal(op.Unsqueeze(groups, op.Constant(value_ints=[1])),
                    op.Unsqueeze(classes, op.Constant(value_ints=[0, 2])))
    score = op.Unsqueeze(op.Cast(count - rank, to=_FLOAT), op.Constant(value_ints=[1]))
    chosen = op.NonMaxSuppression(
        boxes, op.Where(mine, score, op.Constant(value_float=-1.0)),
        op.Constant(value_ints=[limit]) if limit else count,
        op.Constant(value_floats=[iou_threshold]), op.Constant(value_floats=[0.0]))
    image = op.Gather(chosen, op.Constant(value_ints=[0]), axis=1)
    place = op.GatherND(rank, op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1))
    at = op.Concat(image, op.Unsqueeze(place, op.Constant(value_ints=[1])), axis=1)
    ones = op.Cast(op.Expand(op.Constant(value_int=1), op.Shape(place)), to=_INT64)
    return op.Cast(op.ScatterND(op.Expand(op.Constant(value_int=0), op.Shape(groups)), at, ones),
                   to=_BOOL)


def _sort(x: TFloatOrInt, stable: bool, dim: int = -1,
          descending: bool = False) -> tuple[TFloatOrInt, INT64]:
    """``aten::sort.stable``: of equal values ``TopK`` takes the first ones first."""
    values, indices = op.TopK(x, op.Shape(x, start=dim, end=dim + 1 or None), axis=dim,
                              largest=int(descending))
    return values, indices


def _levels(rois: FLOAT, num_levels: int, finest_scale: float) -> INT64:
    """The pyramid's level of each region, :func:`fastdet.kernels.roi_align.reference.roi_levels`.

    ``floor(log2(x))`` counts the powers of two up to x: no logarithm's rounding decides it.
    """
    size = (op.Slice(rois, op.Constant(value_ints=[3]), op.Constant(value_ints=[5]),
                     op.Constant(value_ints=[1]))
            - op.Slice(rois, op.Constant(value_ints=[1]), op.Constant(value_ints=[3]),
                       op.Constant(value_ints=[1])))
    area = op.ReduceProd(size, op.Constant(value_ints=[1]))
    relative = op.Sqrt(area) / op.Constant(value_float=finest_scale) + op.Constant(
        value_float=1e-6)
    steps = op.Constant(value_floats=[2.0 ** i for i in range(1, num_levels)])
    return op.ReduceSum(op.Cast(op.GreaterOrEqual(relative, steps), to=_INT64),
                        op.Constant(value_ints=[1]), keepdims=0)


def _roi_align(feats: Sequence[FLOAT], rois: FLOAT, levels: FLOAT | None, scales: Sequence[float],
               bins_y: int, bins_x: int, sampling_ratio: int, maximum: bool, aligned: bool,
               finest_scale: float, triton: bool) -> tuple[FLOAT, FLOAT, FLOAT]:
    """``fastdet::roi_align``: each level's regions by the standard's ``RoiAlign``.

    The operator's other two results are for its backward: what stands for them is never read.
    """
    if maximum:
        raise ValueError("roi_align: runtimes differ in what RoiAlign's mode 'max' is; export "
                         "with pool_mode 'avg'")
    regions = op.Slice(rois, op.Constant(value_ints=[1]), op.Constant(value_ints=[5]),
                       op.Constant(value_ints=[1]))
    images = op.Cast(op.Gather(rois, op.Constant(value_int=0), axis=1), to=_INT64)

    def pooled(feat: Any, scale: float, regions: Any, images: Any) -> Any:
        return op.RoiAlign(
            feat, regions, images, output_height=bins_y, output_width=bins_x, mode="avg",
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
            sampling_ratio=sampling_ratio, spatial_scale=scale)

    if len(feats) == 1:
        return pooled(feats[0], scales[0], regions, images), op.Identity(rois), op.Identity(rois)
    level = _levels(rois, len(feats), finest_scale) if levels is None else op.Clip(
        op.Cast(levels, to=_INT64), op.Constant(value_int=0),
        op.Constant(value_int=len(feats) - 1))
    parts, rows = [], []
    for i, (feat, scale) in enumerate(zip(feats, scales)):
        mine = op.Squeeze(op.NonZero(op.Equal(level, op.Constant(value_int=i))),
                          op.Constant(value_ints=[0]))
        parts.append(pooled(feat, scale, op.Gather(regions, mine), op.Gather(images, mine)))
        rows.append(mine)
    # Back in the order of the regions.
    found = op.Concat(*rows, axis=0)
    _, order = op.TopK(found, op.Shape(found), largest=0)
    out = op.Gather(op.Concat(*parts, axis=0), order)
    return out, op.Identity(rois), op.Identity(rois)


def translations() -> dict[Any, Callable[..., Any]]:
    """Operators with an ONNX form of their own, for ``torch.onnx``."""
    ops = torch.ops
    return {ops.fastdet.grid_anchors.default: _grid_anchors,
            ops.fastdet.grid_points.default: _grid_points,
            ops.fastdet.nms.default: _nms, ops.fastdet.nms_torch.default: _nms,
            ops.fastdet.roi_align.default: _roi_align, ops.aten.sort.stable: _sort}
