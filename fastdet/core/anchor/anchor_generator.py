"""Anchor generators: boxes of several sizes and shapes at every cell of a feature pyramid."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.kernels.dispatch import tracing
from fastdet.kernels.grid_priors import (
    BaseTables,
    check_rows,
    constant_to_dynamo,
    grid_anchors,
    level_rows,
    split_levels,
)

from .base import PriorGenerator, device_of, level_list, map_size, pair, positive, stride_list
from .builder import PRIOR_GENERATORS

__all__ = ["AnchorGenerator", "LegacyAnchorGenerator", "LegacySSDAnchorGenerator",
           "SSDAnchorGenerator", "YOLOAnchorGenerator"]

@PRIOR_GENERATORS.register_module()
class AnchorGenerator(PriorGenerator):
    """Anchors of fixed scales and aspect ratios at every cell (Faster R-CNN, arXiv 1506.01497).

    On a GPU :meth:`grid_priors` writes all levels with one kernel launch. What it returns is the
    caller's own. ``torch.compile`` takes the base anchors as constants.

    Args:
        strides: pixels between neighbouring cells, for every level: a number or (x, y).
        ratios: height over width of the anchors of a cell.
        scales: anchor sizes in base sizes. Give either this or both octave arguments.
        base_sizes: for every level the size of an anchor of scale 1 in pixels; the smaller of
            the strides by default.
        scale_major: whether anchors of one ratio and different scales stand together (they
            share a row of the ratios-by-scales table); otherwise those of one scale do.
        octave_base_scale: the smallest scale of an octave.
        scales_per_octave: scales in an octave, ``octave_base_scale * 2 ** (i / n)``.
        centers: for every level the (x, y) of the base anchors' centres in pixels from the cell
            at (0, 0). Not together with ``center_offset``.
        center_offset: the base anchors' centre as a share of the base size, in [0, 1].

    Raises:
        ValueError: arguments that exclude each other, or tables of different lengths.
    """

    _shown: tuple[str, ...] = (
        "strides", "ratios", "scales", "base_sizes", "scale_major", "octave_base_scale",
        "scales_per_octave", "num_levels", "centers", "center_offset")

    def __init__(self, strides: Sequence[Any], ratios: Sequence[float],
                 scales: Sequence[float] | None = None,
                 base_sizes: Sequence[float] | None = None, scale_major: bool = True,
                 octave_base_scale: float | None = None, scales_per_octave: int | None = None,
                 centers: Sequence[tuple[float, float]] | None = None,
                 center_offset: float = 0.) -> None:
        if center_offset != 0 and centers is not None:
            raise ValueError("give centers or center_offset, not both: got "
                             f"centers={centers!r} and center_offset={center_offset!r}")
        if not 0 <= center_offset <= 1:
            raise ValueError(f"center_offset must be in [0, 1], got {center_offset!r}")
        for name, values in (("ratios", ratios), ("scales", scales), ("base_sizes", base_sizes),
                             ("octave_base_scale", octave_base_scale),
                             ("scales_per_octave", scales_per_octave)):
            positive(name, values)
        octave_scales = None
        if octave_base_scale is not None and scales_per_octave is not None:
            octave_scales = [2 ** (i / scales_per_octave) * octave_base_scale
                             for i in range(scales_per_octave)]
        if (octave_scales is None) == (scales is None):
            raise ValueError("give either scales, or octave_base_scale and scales_per_octave: got "
                             f"scales={scales!r}, octave_base_scale={octave_base_scale!r}, "
                             f"scales_per_octave={scales_per_octave!r}")
        self.strides = stride_list(strides)
        self.base_sizes: list[Any] = (
            [min(stride) for stride in self.strides] if base_sizes is None
            else level_list("base_sizes", base_sizes, len(self.strides)))
        if centers is not None:
            level_list("centers", centers, len(self.strides))
        self.octave_base_scale = octave_base_scale
        self.scales_per_octave = scales_per_octave
        self.scales: Any = _vector(octave_scales if scales is None else scales)
        self.ratios: Any = _vector(ratios)
        self.scale_major = scale_major
        self.centers = centers
        self.center_offset = center_offset
        self.base_anchors = self.gen_base_anchors()

    @property
    def num_base_anchors(self) -> list[int]:
        """Former name of :attr:`num_base_priors`."""
        return self.num_base_priors

    @property
    def num_base_priors(self) -> list[int]:
        """Anchors of one cell, for every level."""
        return [base.size(0) for base in self.base_anchors]

    def gen_base_anchors(self) -> list[Tensor]:
        """Make the anchors of the cell at (0, 0).

        Returns:
            For each level [A, 4] boxes (x1, y1, x2, y2) in pixels.
        """
        return [self.gen_single_level_base_anchors(
                    size, scales=self.scales, ratios=self.ratios,
                    center=None if self.centers is None else self.centers[i])
                for i, size in enumerate(self.base_sizes)]

    def gen_single_level_base_anchors(self, base_size: float, scales: Tensor, ratios: Tensor,
                                      center: tuple[float, float] | None = None) -> Tensor:
        """Make one level's anchors of the cell at (0, 0).

        Args:
            base_size: size of an anchor of scale 1 in pixels.
            scales: [S] sizes in base sizes.
            ratios: [R] heights over widths.
            center: (x, y) of the anchors' centre; ``center_offset`` base sizes by default.

        Returns:
            [R * S, 4] boxes (x1, y1, x2, y2) in pixels.
        """
        x, y = (self.center_offset * base_size,) * 2 if center is None else center
        ws, hs = self._sides(base_size, scales, ratios)
        return torch.stack([x - 0.5 * ws, y - 0.5 * hs, x + 0.5 * ws, y + 0.5 * hs], -1)

    def _sides(self, base_size: float, scales: Tensor, ratios: Tensor) -> tuple[Tensor, Tensor]:
        # Widths and heights of base anchors; the order of the factors decides the last bit.
        h_ratios = torch.sqrt(ratios)
        sides = [base_size * r[:, None] * scales if self.scale_major
                 else base_size * scales[:, None] * r for r in (1 / h_ratios, h_ratios)]
        return sides[0].reshape(-1), sides[1].reshape(-1)

    def grid_priors(self, featmap_sizes: Sequence[Sequence[int]],
                    dtype: torch.dtype = torch.float32,
                    device: torch.device | str = "cuda") -> list[Tensor]:
        """Lay the anchors over all levels.

        Args:
            featmap_sizes: (height, width) of each level's feature map.
            dtype: data type of the anchors; every step of the arithmetic rounds to it.
            device: where the anchors will lie.

        Returns:
            For each level [height * width * A, 4] boxes (x1, y1, x2, y2) in pixels, ordered by
            y, x and anchor.

        Raises:
            ValueError: the number of sizes is not the number of levels, or a size is negative.
        """
        return self._grid(slice(None), self._sizes(featmap_sizes), dtype, device)

    def single_level_grid_priors(self, featmap_size: Sequence[int], level_idx: int,
                                 dtype: torch.dtype = torch.float32,
                                 device: torch.device | str = "cuda") -> Tensor:
        """Lay the anchors over one level.

        Args:
            featmap_size: (height, width) of the feature map.
            level_idx: number of the level.
            dtype: data type of the anchors.
            device: where the anchors will lie.

        Returns:
            [height * width * A, 4], as one entry of :meth:`grid_priors`.

        Raises:
            ValueError: there is no such level, or a size is negative.
        """
        level = self._level(level_idx)
        return self._grid(slice(level, level + 1), [map_size(featmap_size)], dtype, device)[0]

    def _grid(self, levels: slice, sizes: list[tuple[int, int]], dtype: torch.dtype,
              device: torch.device | str) -> list[Tensor]:
        counts, strides = self.num_base_priors, self.strides[levels]
        first = sum(counts[:levels.start or 0])
        counts = counts[levels]
        base = self._base_table(dtype, device_of(device)).narrow(0, first, sum(counts))
        return split_levels(grid_anchors(base, counts, sizes, strides), level_rows(sizes, counts))

    _base_tables: BaseTables

    @property
    def _tables(self) -> BaseTables:
        # Made on demand: a subclass need not call this class's constructor.
        return self.__dict__.setdefault("_base_tables", BaseTables())

    def _base_table(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        if tracing() and not torch.compiler.is_dynamo_compiling():
            # What a trace makes, such as a fake tensor of torch.export's, must not be kept.
            return torch.cat([base.to(dtype) for base in self.base_anchors]).to(device)
        name = self._prepare_base_table(dtype, device)
        return getattr(self._base_tables, name)

    # Dynamo cannot follow version counters, and a copy to the GPU has no place in its graph:
    # it runs this while it compiles, and then finds the table where it lies. The decorator is
    # torch.compiler.assume_constant_result, which would import Dynamo (and triton) with us.
    @constant_to_dynamo
    def _prepare_base_table(self, dtype: torch.dtype, device: torch.device) -> str:
        return self._tables.refresh(self.base_anchors).prepare(dtype, device)

    def sparse_priors(self, prior_idxs: Tensor, featmap_size: Sequence[int], level_idx: int,
                      dtype: torch.dtype = torch.float32,
                      device: torch.device | str = "cuda") -> Tensor:
        """Make the anchors with the given numbers: rows of :meth:`single_level_grid_priors`.

        As in MMDetection the base anchors are added as they are: with a half precision ``dtype``
        the shifts are rounded to it and the sum is float32.

        Args:
            prior_idxs: [K] int64 row numbers, on any device.
            featmap_size: (height, width) of the feature map.
            level_idx: number of the level.
            dtype: data type of the shifts.
            device: where the anchors will lie.

        Returns:
            [K, 4] boxes (x1, y1, x2, y2) in pixels.

        Raises:
            ValueError: there is no such level, or (on a CPU) no such row.
        """
        level, (h, w) = self._level(level_idx), map_size(featmap_size)
        counts = self.num_base_priors
        a, (stride_w, stride_h) = counts[level], self.strides[level]
        check_rows(prior_idxs, h * w * a)
        table = self._base_table(self.base_anchors[level].dtype, prior_idxs.device)
        cell = prior_idxs // a
        x, y = cell % w * stride_w, cell // w % h * stride_h
        shift = torch.stack([x, y, x, y], 1).to(dtype)
        return (shift + table[sum(counts[:level]) + prior_idxs % a]).to(device_of(device))

    def single_level_valid_flags(self, featmap_size: Sequence[int], valid_size: Sequence[int],
                                 num_base_anchors: int,
                                 device: torch.device | str = "cuda") -> Tensor:
        """Mark the anchors of one level whose cells are valid.

        Args:
            featmap_size: (height, width) of the feature map.
            valid_size: (height, width) of its valid part.
            num_base_anchors: anchors of one cell.
            device: where the flags will lie.

        Returns:
            [height * width * num_base_anchors] bool.

        Raises:
            ValueError: the valid part is larger than the feature map, or a size is negative.
        """
        return self._single_level_valid_flags(featmap_size, valid_size, num_base_anchors, device)

    def grid_anchors(self, featmap_sizes: Sequence[Sequence[int]],
                     device: torch.device | str = "cuda") -> list[Tensor]:
        """Deprecated form of :meth:`grid_priors`, in the data type of the base anchors."""
        warnings.warn("grid_anchors is deprecated, use grid_priors", stacklevel=2)
        return self.grid_priors(featmap_sizes, self.base_anchors[0].dtype, device)

    def single_level_grid_anchors(self, base_anchors: Tensor, featmap_size: Sequence[int],
                                  stride: tuple[float, float] = (16, 16),
                                  device: torch.device | str = "cuda") -> Tensor:
        """Deprecated form of :meth:`single_level_grid_priors` that takes base anchors.

        Args:
            base_anchors: [A, 4] anchors of the cell at (0, 0), on ``device``.
            featmap_size: (height, width) of the feature map.
            stride: (x, y) pixels between neighbouring cells.
            device: where the anchors will lie.

        Returns:
            [height * width * A, 4], in the data type of ``base_anchors``.
        """
        warnings.warn("single_level_grid_anchors is deprecated, use single_level_grid_priors",
                      stacklevel=2)
        h, w = featmap_size
        y, x = torch.meshgrid(torch.arange(h, device=device) * stride[1],
                              torch.arange(w, device=device) * stride[0], indexing="ij")
        shifts = torch.stack([x, y, x, y], -1).type_as(base_anchors)
        return (shifts[:, :, None] + base_anchors).reshape(-1, 4)


@PRIOR_GENERATORS.register_module()
class SSDAnchorGenerator(AnchorGenerator):
    """Anchors of SSD (arXiv 1512.02325): between a smallest and a largest size on each level.

    Every cell has a square of the smallest size, a square of the geometric mean of the smallest
    and the largest, and for every ratio r a box of 1/r and one of r.

    Args:
        strides: pixels between neighbouring cells, for every level: a number or (x, y).
        ratios: for every level the aspect ratios besides 1.
        min_sizes: smallest size of every level in pixels; together with ``max_sizes``.
        max_sizes: largest size of every level in pixels.
        basesize_ratio_range: sizes of the second and the last level as shares of ``input_size``,
            from which the sizes are derived if they are not given.
        input_size: side of the input image in pixels, 300 or 512 where sizes are derived.
        scale_major: as in :class:`AnchorGenerator`; SSD uses False.

    Raises:
        ValueError: tables of different lengths, or sizes that cannot be derived.
    """

    _shown = ("strides", "scales", "scale_major", "input_size", "ratios", "num_levels",
              "base_sizes", "basesize_ratio_range")

    def __init__(self, strides: Sequence[Any], ratios: Sequence[Sequence[float]],
                 min_sizes: Sequence[float] | None = None,
                 max_sizes: Sequence[float] | None = None,
                 basesize_ratio_range: tuple[float, float] = (0.15, 0.9), input_size: int = 300,
                 scale_major: bool = True) -> None:
        self.strides = stride_list(strides)
        level_list("ratios", ratios, len(self.strides))
        if (min_sizes is None) != (max_sizes is None):
            raise ValueError("give min_sizes and max_sizes together: got "
                             f"min_sizes={min_sizes!r} and max_sizes={max_sizes!r}")
        for name, values in (("ratios", ratios), ("min_sizes", min_sizes),
                             ("max_sizes", max_sizes)):
            positive(name, values)
        self.input_size = input_size
        self.basesize_ratio_range = basesize_ratio_range
        self.centers = self._cell_centers()
        if min_sizes is None or max_sizes is None:
            min_sizes, max_sizes = self._derived_sizes()
        self.base_sizes = level_list("min_sizes", min_sizes, len(self.strides))
        level_list("max_sizes", max_sizes, len(self.strides))
        self.scales = [_vector([1., math.sqrt(high / low)])
                       for low, high in zip(min_sizes, max_sizes)]
        self.ratios = [_vector([1., *(v for r in level for v in (1 / r, r))]) for level in ratios]
        self.scale_major = scale_major
        self.center_offset = 0
        self.base_anchors = self.gen_base_anchors()

    def _cell_centers(self) -> list[tuple[float, float]]:
        return [(stride_w / 2., stride_h / 2.) for stride_w, stride_h in self.strides]

    def _derived_sizes(self) -> tuple[list[int], list[int]]:
        # Shares of the input in per cent: of the first level, which published models fix ...
        low, high = pair(self.basesize_ratio_range)
        first = {(300, .15): (7, 15), (300, .2): (10, 20),
                 (512, .1): (4, 10), (512, .15): (7, 15)}.get((self.input_size, low))
        if first is None:
            raise ValueError(
                "without min_sizes and max_sizes, input_size must be 300 with "
                "basesize_ratio_range[0] 0.15 or 0.2, or 512 with 0.1 or 0.15, "
                f"got {self.input_size!r} with {low!r}")
        if self.num_levels < 3:
            raise ValueError("without min_sizes and max_sizes at least 3 levels are needed, "
                             f"got {self.num_levels}")
        # ... and of the others, in equal steps.
        low, high = int(low * 100), int(high * 100)
        step = (high - low) // (self.num_levels - 2)
        if step <= 0:
            raise ValueError("basesize_ratio_range must span at least one per cent a level, got "
                             f"{self.basesize_ratio_range!r} for {self.num_levels} levels")
        shares = [first] + [(share, share + step) for share in range(low, high + 1, step)]
        sizes = [[int(self.input_size * share / 100) for share in bound] for bound in zip(*shares)]
        return sizes[0], sizes[1]

    def gen_base_anchors(self) -> list[Tensor]:
        """Make the anchors of the cell at (0, 0).

        Returns:
            For each level [A, 4] boxes (x1, y1, x2, y2) in pixels: the two squares first.
        """
        levels = []
        for size, scales, ratios, center in zip(
                self.base_sizes, self.scales, self.ratios, self.centers or ()):
            base = self.gen_single_level_base_anchors(size, scales, ratios, center)
            # One box of the larger scale is kept; it moves up to the second place.
            order = [0, len(ratios), *range(1, len(ratios))]
            levels.append(base[order])
        return levels


@PRIOR_GENERATORS.register_module()
class LegacyAnchorGenerator(AnchorGenerator):
    """Anchors of MMDetection 1.x, whose boxes include their last pixel.

    Widths and heights are one less when corners and centres are computed, and corners are rounded
    to integers, half to even. Models of 1.x use ``center_offset=0.5``.

    Args:
        strides, ratios, scales, base_sizes, scale_major, octave_base_scale, scales_per_octave,
            centers, center_offset: as in :class:`AnchorGenerator`.
    """

    def gen_single_level_base_anchors(self, base_size: float, scales: Tensor, ratios: Tensor,
                                      center: tuple[float, float] | None = None) -> Tensor:
        """Make one level's anchors of the cell at (0, 0).

        Args:
            base_size: size of an anchor of scale 1 in pixels.
            scales: [S] sizes in base sizes.
            ratios: [R] heights over widths.
            center: (x, y) of the anchors' centre; by default ``center_offset`` times the base
                size less one.

        Returns:
            [R * S, 4] boxes (x1, y1, x2, y2) in whole pixels.
        """
        x, y = (self.center_offset * (base_size - 1),) * 2 if center is None else center
        ws, hs = (0.5 * (side - 1) for side in self._sides(base_size, scales, ratios))
        return torch.stack([x - ws, y - hs, x + ws, y + hs], -1).round()


@PRIOR_GENERATORS.register_module()
class LegacySSDAnchorGenerator(SSDAnchorGenerator, LegacyAnchorGenerator):
    """Anchors of SSD in MMDetection 1.x: those of :class:`SSDAnchorGenerator` in the arithmetic
    of :class:`LegacyAnchorGenerator`, centred on ``(stride - 1) / 2``.

    Args:
        strides, ratios, basesize_ratio_range, input_size, scale_major: as in
            :class:`SSDAnchorGenerator`.
    """

    def __init__(self, strides: Sequence[Any], ratios: Sequence[Sequence[float]],
                 basesize_ratio_range: tuple[float, float], input_size: int = 300,
                 scale_major: bool = True) -> None:
        super().__init__(strides=strides, ratios=ratios, basesize_ratio_range=basesize_ratio_range,
                         input_size=input_size, scale_major=scale_major)

    def _cell_centers(self) -> list[tuple[float, float]]:
        return [((stride_w - 1) / 2., (stride_h - 1) / 2.) for stride_w, stride_h in self.strides]


@PRIOR_GENERATORS.register_module()
class YOLOAnchorGenerator(AnchorGenerator):
    """Anchors of YOLOv3 (arXiv 1804.02767): given sizes, centred on each cell.

    Args:
        strides: pixels between neighbouring cells, for every level: a number or (x, y).
        base_sizes: for every level the (width, height) of its anchors in pixels.

    Raises:
        ValueError: as many base sizes as strides are needed.
    """

    _shown = ("strides", "base_sizes", "num_levels", "centers")

    def __init__(self, strides: Sequence[Any],
                 base_sizes: Sequence[Sequence[tuple[float, float]]]) -> None:
        self.strides = stride_list(strides)
        positive("base_sizes", base_sizes)
        self.centers = [(stride_w / 2., stride_h / 2.) for stride_w, stride_h in self.strides]
        self.base_sizes = [[pair(size) for size in level]
                           for level in level_list("base_sizes", base_sizes, len(self.strides))]
        self.base_anchors = self.gen_base_anchors()

    @property
    def num_levels(self) -> int:
        """Number of feature levels."""
        return len(self.base_sizes)

    def gen_base_anchors(self) -> list[Tensor]:
        """Make the anchors of the cell at (0, 0).

        Returns:
            For each level [A, 4] boxes (x1, y1, x2, y2) in pixels.
        """
        return [self.gen_single_level_base_anchors(sizes, center)
                for sizes, center in zip(self.base_sizes, self.centers or ())]

    def gen_single_level_base_anchors(  # type: ignore[override]
            self, base_sizes_per_level: Sequence[tuple[float, float]],
            center: tuple[float, float] | None = None) -> Tensor:
        """Make one level's anchors of the cell at (0, 0).

        Args:
            base_sizes_per_level: (width, height) of the anchors in pixels.
            center: (x, y) of the anchors' centre.

        Returns:
            [A, 4] boxes (x1, y1, x2, y2) in pixels.

        Raises:
            ValueError: no centre is given.
        """
        if center is None:
            raise ValueError("center must be the (x, y) of the anchors' centre, got None")
        x, y = center
        return torch.tensor([[x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h]
                             for w, h in base_sizes_per_level], dtype=torch.get_default_dtype())

    def responsible_flags(self, featmap_sizes: Sequence[Sequence[int]], gt_bboxes: Tensor,
                          device: torch.device | str = "cuda") -> list[Tensor]:
        """Mark the anchors of the cells that hold the centre of a ground truth box.

        Args:
            featmap_sizes: (height, width) of each level's feature map.
            gt_bboxes: [K, 4] boxes (x1, y1, x2, y2) in pixels, their centres inside the image.
            device: where the flags will lie.

        Returns:
            For each level [height * width * A] uint8, 1 for every anchor of such a cell.

        Raises:
            ValueError: the number of sizes is not the number of levels.
        """
        return [self.single_level_responsible_flags(size, gt_bboxes, stride, a, device)
                for size, stride, a in zip(
                    self._sizes(featmap_sizes), self.strides, self.num_base_priors)]

    def single_level_responsible_flags(self, featmap_size: Sequence[int], gt_bboxes: Tensor,
                                       stride: tuple[float, float], num_base_anchors: int,
                                       device: torch.device | str = "cuda") -> Tensor:
        """Mark the anchors of one level's cells that hold the centre of a ground truth box.

        Args:
            featmap_size: (height, width) of the feature map.
            gt_bboxes: [K, 4] boxes (x1, y1, x2, y2) in pixels.
            stride: (x, y) pixels between neighbouring cells.
            num_base_anchors: anchors of one cell.
            device: where the flags will lie.

        Returns:
            [height * width * num_base_anchors] uint8.
        """
        h, w = map_size(featmap_size)
        device = device_of(device)
        centers = ((gt_bboxes[:, :2] + gt_bboxes[:, 2:4]) * 0.5).to(device)
        x = torch.floor(centers[:, 0] / stride[0]).long()
        y = torch.floor(centers[:, 1] / stride[1]).long()
        flags = torch.zeros(h * w, dtype=torch.uint8, device=device)
        flags[y * w + x] = 1
        return flags.repeat_interleave(num_base_anchors)


def _vector(values: Any) -> Tensor:
    return torch.as_tensor(values, dtype=torch.get_default_dtype())
