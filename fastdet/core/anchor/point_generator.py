"""Point generators: one point at every cell of a feature pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.kernels.grid_priors import check_rows, grid_points, level_rows, split_levels
from fastdet.kernels.valid_flags import valid_flags

from .base import PriorGenerator, device_of, map_size, positive, stride_list
from .builder import PRIOR_GENERATORS

__all__ = ["MlvlPointGenerator", "PointGenerator"]


@PRIOR_GENERATORS.register_module()
class PointGenerator:
    """A point at every cell of one level, for point-based detectors (RepPoints, 1904.11490)."""

    def grid_points(self, featmap_size: Sequence[int], stride: float = 16,
                    device: torch.device | str = "cuda") -> Tensor:
        """Lay the points over a feature map.

        Args:
            featmap_size: (height, width) of the feature map.
            stride: pixels between neighbouring cells.
            device: where the points will lie.

        Returns:
            [height * width, 3] float32: x and y in pixels, and the stride; ordered by y, x.

        Raises:
            ValueError: a size is negative, or the stride is not positive.
        """
        positive("stride", stride)
        return grid_points([map_size(featmap_size)], [(stride, stride)], 0., stride_columns=1,
                           device=device_of(device))

    def valid_flags(self, featmap_size: Sequence[int], valid_size: Sequence[int],
                    device: torch.device | str = "cuda") -> Tensor:
        """Mark the points whose cells are valid.

        Args:
            featmap_size: (height, width) of the feature map.
            valid_size: (height, width) of its valid part.
            device: where the flags will lie.

        Returns:
            [height * width] bool.

        Raises:
            ValueError: the valid part is larger than the feature map, or a size is negative.
        """
        return valid_flags([[map_size(valid_size)]], [1], [map_size(featmap_size)],
                           device=device_of(device))[0]


@PRIOR_GENERATORS.register_module()
class MlvlPointGenerator(PriorGenerator):
    """A point at every cell of every level, for point-based detectors (FCOS, arXiv 1904.01355).

    On a GPU :meth:`grid_priors` writes all levels with one kernel launch. What it returns is the
    caller's own.

    Args:
        strides: pixels between neighbouring cells, for every level: a number or (x, y).
        offset: where in its cell the point lies, in cells.
    """

    _shown = ("strides", "offset", "num_levels")

    def __init__(self, strides: Sequence[Any], offset: float = 0.5) -> None:
        self.strides = stride_list(strides)
        self.offset = offset

    @property
    def num_base_priors(self) -> list[int]:
        """Points of one cell, for every level: 1."""
        return [1] * self.num_levels

    def grid_priors(self, featmap_sizes: Sequence[Sequence[int]],
                    dtype: torch.dtype = torch.float32, device: torch.device | str = "cuda",
                    with_stride: bool = False) -> list[Tensor]:
        """Lay the points over all levels.

        Args:
            featmap_sizes: (height, width) of each level's feature map.
            dtype: data type of the points; they are computed in float32 and rounded once.
            device: where the points will lie.
            with_stride: whether to append the strides (x, y) to each point.

        Returns:
            For each level [height * width, 2] points (x, y) in pixels, or [height * width, 4]
            with the strides, ordered by y and x.

        Raises:
            ValueError: the number of sizes is not the number of levels, or a size is negative.
        """
        sizes = self._sizes(featmap_sizes)
        return self._grid(sizes, self.strides, dtype, device, with_stride)

    def single_level_grid_priors(self, featmap_size: Sequence[int], level_idx: int,
                                 dtype: torch.dtype = torch.float32,
                                 device: torch.device | str = "cuda",
                                 with_stride: bool = False) -> Tensor:
        """Lay the points over one level.

        Args:
            featmap_size: (height, width) of the feature map.
            level_idx: number of the level.
            dtype: data type of the points.
            device: where the points will lie.
            with_stride: whether to append the strides (x, y) to each point.

        Returns:
            [height * width, 2 or 4], as one entry of :meth:`grid_priors`.

        Raises:
            ValueError: there is no such level, or a size is negative.
        """
        stride = self.strides[self._level(level_idx)]
        return self._grid([map_size(featmap_size)], [stride], dtype, device, with_stride)[0]

    def _grid(self, sizes: list[tuple[int, int]], strides: list[tuple[Any, Any]],
              dtype: torch.dtype, device: torch.device | str, with_stride: bool) -> list[Tensor]:
        flat = grid_points(sizes, strides, self.offset, dtype=dtype, device=device_of(device),
                           stride_columns=2 if with_stride else 0)
        return split_levels(flat, level_rows(sizes, [1] * len(sizes)))

    def sparse_priors(self, prior_idxs: Tensor, featmap_size: Sequence[int], level_idx: int,
                      dtype: torch.dtype = torch.float32,
                      device: torch.device | str = "cuda") -> Tensor:
        """Make the points with the given numbers: rows of :meth:`single_level_grid_priors`.

        Args:
            prior_idxs: [K] int64 row numbers, on any device.
            featmap_size: (height, width) of the feature map.
            level_idx: number of the level.
            dtype: data type of the points.
            device: where the points will lie.

        Returns:
            [K, 2] points (x, y) in pixels.

        Raises:
            ValueError: there is no such level, or (on a CPU) no such row.
        """
        (h, w), (stride_w, stride_h) = map_size(featmap_size), self.strides[self._level(level_idx)]
        check_rows(prior_idxs, h * w)
        x = (prior_idxs % w + self.offset) * stride_w
        y = (prior_idxs // w % h + self.offset) * stride_h
        return torch.stack([x, y], 1).to(device_of(device), dtype)

    def single_level_valid_flags(self, featmap_size: Sequence[int], valid_size: Sequence[int],
                                 device: torch.device | str = "cuda") -> Tensor:
        """Mark the points of one level whose cells are valid.

        Args:
            featmap_size: (height, width) of the feature map.
            valid_size: (height, width) of its valid part.
            device: where the flags will lie.

        Returns:
            [height * width] bool.

        Raises:
            ValueError: the valid part is larger than the feature map, or a size is negative.
        """
        return self._single_level_valid_flags(featmap_size, valid_size, 1, device)
