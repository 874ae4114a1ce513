"""What the generators of anchors and of points share: levels, valid flags, checks."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.kernels.grid_priors import level_rows, split_levels
from fastdet.kernels.valid_flags import valid_flags

__all__ = ["PriorGenerator", "device_of", "level_list", "map_size", "pair", "positive",
           "stride_list"]

Size = tuple[int, int]


def pair(value: Any) -> tuple[Any, Any]:
    """``(value, value)``, or the two values of a sequence.

    Raises:
        ValueError: a sequence of another length.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        return (value, value)
    if len(value) != 2:
        raise ValueError(f"expected a number or a pair, got {value!r}")
    return (value[0], value[1])


def level_list(name: str, values: Any, levels: int | None = None) -> list[Any]:
    """``values`` as a list with one entry per level.

    Raises:
        ValueError: it is no list or tuple, is empty, or has not ``levels`` entries.
    """
    if not isinstance(values, (list, tuple)) or not values:
        raise ValueError(f"{name} must be a list with one entry per level, got {values!r}")
    if levels is not None and len(values) != levels:
        raise ValueError(f"{name} must have one entry per level: it has {len(values)}, and the "
                         f"strides have {levels}")
    return list(values)


def stride_list(strides: Any) -> list[tuple[Any, Any]]:
    """The (x, y) strides of every level.

    Raises:
        ValueError: no list with one entry per level, or a stride that is not positive.
    """
    made = [pair(stride) for stride in level_list("strides", strides)]
    positive("strides", made)
    return made


def positive(name: str, values: Any) -> None:
    """Refuse numbers that are not positive.

    Raises:
        ValueError: ``values``, a number, ``None`` or a nest of sequences, holds one.
    """
    flat = [values]
    while flat:
        value = flat.pop()
        if isinstance(value, (list, tuple)):
            flat += value
        elif isinstance(value, (int, float)) and not value > 0:
            raise ValueError(f"{name} must be positive, got {values!r}")


def map_size(size: Sequence[int]) -> Size:
    """(height, width) as integers.

    Raises:
        ValueError: no two whole numbers.
    """
    whole = (int, torch.SymInt)  # int() of a symbol would make the compiler's size a constant
    if len(size) != 2 or not all(isinstance(n, whole) or int(n) == n for n in size):
        raise ValueError(f"expected (height, width) in whole cells, got {tuple(size)}")
    height, width = (n if isinstance(n, whole) else int(n) for n in size)
    return height, width


def device_of(device: torch.device | str) -> torch.device:
    """``device``, refused in one sentence where the default is asked for and there is no GPU.

    Raises:
        RuntimeError: there is no such device here.
    """
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"device={str(device)!r} (the default, as in MMDetection) needs a GPU "
                           "and there is none here: pass device='cpu'")
    return device


class PriorGenerator(ABC):
    """Base of the generators that lay priors over the levels of a feature pyramid.

    A subclass sets ``strides``, a list of (x, y) pixels between neighbouring cells of a level.
    """

    strides: list[tuple[Any, Any]]

    #: Attributes that the representation shows.
    _shown: tuple[str, ...] = ()

    def __repr__(self) -> str:
        shown = ",\n".join(f"    {name}={getattr(self, name)}" for name in self._shown)
        return f"{type(self).__name__}(\n{shown})"

    @property
    def num_levels(self) -> int:
        """Number of feature levels."""
        return len(self.strides)

    @property
    @abstractmethod
    def num_base_priors(self) -> list[int]:
        """Priors of one cell, for every level."""

    def _sizes(self, featmap_sizes: Sequence[Sequence[int]]) -> list[Size]:
        if len(featmap_sizes) != self.num_levels:
            raise ValueError(f"featmap_sizes must have one (height, width) per level: got "
                             f"{len(featmap_sizes)} sizes for {self.num_levels} levels")
        return [map_size(size) for size in featmap_sizes]

    def _level(self, level_idx: int) -> int:
        if not -self.num_levels <= level_idx < self.num_levels:
            raise ValueError(f"level_idx must be below the {self.num_levels} levels, "
                             f"got {level_idx}")
        return level_idx % self.num_levels

    def _valid_sizes(self, sizes: Sequence[Size], pad_shape: Sequence[int]) -> Iterator[Size]:
        pad_h, pad_w = map_size(pad_shape[:2])
        if pad_h < 0 or pad_w < 0:
            raise ValueError(f"pad_shape must not be negative, got ({pad_h}, {pad_w})")
        for (h, w), (stride_w, stride_h) in zip(sizes, self.strides):
            yield (min(_cells(pad_h, stride_h), h), min(_cells(pad_w, stride_w), w))

    def _flags(self, valid: Sequence[Sequence[Size]], counts: Sequence[int], sizes: Sequence[Size],
               device: torch.device | str) -> Tensor:
        # MMDetection's RepPointsHead asks for flags without a device on a CPU, too; what comes
        # next moves them to where it needs them.
        at = torch.device(device)
        on_cpu = at.type == "cuda" and not torch.cuda.is_available()
        return valid_flags(valid, counts, sizes, device="cpu" if on_cpu else at)

    def valid_flags(self, featmap_sizes: Sequence[Sequence[int]], pad_shape: Sequence[int],
                    device: torch.device | str = "cuda") -> list[Tensor]:
        """Mark the priors whose cells lie inside the padded image.

        Args:
            featmap_sizes: (height, width) of each level's feature map.
            pad_shape: (height, width, ...) of the padded image in pixels.
            device: where the flags will lie; on the CPU where there is no GPU.

        Returns:
            For each level [height * width * priors of a cell] bool.

        Raises:
            ValueError: the number of sizes is not the number of levels, or a size is negative.
        """
        return [flags[0] for flags in self.batch_valid_flags(featmap_sizes, [pad_shape], device)]

    def batch_valid_flags(self, featmap_sizes: Sequence[Sequence[int]],
                          pad_shapes: Sequence[Sequence[int]],
                          device: torch.device | str = "cuda") -> list[Tensor]:
        """:meth:`valid_flags` of all images of a batch at once, in one kernel launch on a GPU.

        MMDetection has no such method; it calls ``valid_flags`` for one image after another.

        Args:
            featmap_sizes: (height, width) of each level's feature map.
            pad_shapes: (height, width, ...) of each padded image in pixels.
            device: where the flags will lie.

        Returns:
            For each level [B, height * width * priors of a cell] bool.

        Raises:
            ValueError: the number of sizes is not the number of levels, or a size is negative.
        """
        sizes, counts = self._sizes(featmap_sizes), self.num_base_priors
        valid = [tuple(self._valid_sizes(sizes, pad_shape)) for pad_shape in pad_shapes]
        flat = self._flags(valid, counts, sizes, device)
        return split_levels(flat, level_rows(sizes, counts), dim=1)

    def _single_level_valid_flags(self, featmap_size: Sequence[int], valid_size: Sequence[int],
                                  count: int, device: torch.device | str) -> Tensor:
        return self._flags([(map_size(valid_size),)], [count], [map_size(featmap_size)], device)[0]


def _cells(pixels: int, stride: Any) -> int:
    # Cells of a level that begin inside the image.
    if isinstance(stride, int):
        return -(-pixels // stride)
    return math.ceil(pixels / stride)
