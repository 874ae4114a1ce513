"""What the generators of anchors and of points share: levels, valid flags, kept results."""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.kernels.dispatch import tracing
from fastdet.kernels.grid_priors import level_rows, split_levels
from fastdet.kernels.launch import recording
from fastdet.kernels.valid_flags import valid_flags

__all__ = ["PriorGenerator", "ResultCache", "level_list", "pair"]

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


class ResultCache:
    """Keeps the last results of pure functions that give one tensor each.

    A result comes back as long as nobody wrote into it: the version counter that autograd keeps
    tells, also of writes through views. (Writes through ``.data`` or NumPy escape it.) Nothing
    is kept or given back where that could be wrong: while a compiler or a dispatch mode records,
    and while a CUDA graph is captured, whose replay must not depend on memory that may be freed.

    Args:
        size: results kept; the one used longest ago goes first.
    """

    def __init__(self, size: int = 16) -> None:
        self.size = size
        self._kept: dict[Hashable, tuple[Tensor, int]] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:  # a copy or a pickle of a generator starts empty
        return ResultCache, (self.size,)

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()

    def get(self, key: Hashable, device: torch.device, make: Callable[[], Tensor]) -> Tensor:
        """The result under ``key``, made by ``make`` if it is not there or was written into.

        Args:
            key: everything that the result depends on, but for the device.
            device: where the result lies. On a GPU a result serves the stream that it was made
                on alone, since another one would not wait for it.
            make: makes the result, a tensor of its own (no view).
        """
        if tracing() or recording():
            return make()
        if device.type == "cuda":
            if torch.cuda.is_current_stream_capturing():
                return make()
            stream = torch.cuda.current_stream(device)
            key = (key, stream.device_index, stream.cuda_stream)
        else:
            key = (key, device)
        with self._lock:
            kept = self._kept.pop(key, None)
        if kept is None or kept[0]._version != kept[1]:
            # A tensor made in inference mode has no version counter and no use in training.
            with torch.inference_mode(False):
                result = make()
            kept = (result, result._version)
        with self._lock:
            self._kept[key] = kept
            while len(self._kept) > self.size:
                del self._kept[next(iter(self._kept))]
        return kept[0]


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

    @property
    def _results(self) -> ResultCache:
        # Made on demand: a subclass need not call this class's constructor.
        return self.__dict__.setdefault("_result_cache", ResultCache())

    def _sizes(self, featmap_sizes: Sequence[Sequence[int]]) -> list[Size]:
        if len(featmap_sizes) != self.num_levels:
            raise ValueError(f"featmap_sizes must have one (height, width) per level: got "
                             f"{len(featmap_sizes)} sizes for {self.num_levels} levels")
        return [(int(h), int(w)) for h, w in featmap_sizes]

    def _level(self, level_idx: int) -> int:
        if not -self.num_levels <= level_idx < self.num_levels:
            raise ValueError(f"level_idx must be below the {self.num_levels} levels, "
                             f"got {level_idx}")
        return level_idx % self.num_levels

    def _valid_sizes(self, sizes: Sequence[Size], pad_shape: Sequence[int]) -> Iterator[Size]:
        pad_h, pad_w = int(pad_shape[0]), int(pad_shape[1])
        if pad_h < 0 or pad_w < 0:
            raise ValueError(f"pad_shape must not be negative, got ({pad_h}, {pad_w})")
        for (h, w), (stride_w, stride_h) in zip(sizes, self.strides):
            yield (min(_cells(pad_h, stride_h), h), min(_cells(pad_w, stride_w), w))

    def _flags(self, valid: Sequence[Sequence[Size]], counts: Sequence[int], sizes: Sequence[Size],
               device: torch.device | str) -> Tensor:
        device = torch.device(device)
        if tracing():
            return valid_flags(valid, counts, sizes, device=device)
        key = ("flags", tuple(map(tuple, valid)), tuple(counts), tuple(sizes))
        return self._results.get(
            key, device, lambda: valid_flags(valid, counts, sizes, device=device))

    def valid_flags(self, featmap_sizes: Sequence[Sequence[int]], pad_shape: Sequence[int],
                    device: torch.device | str = "cuda") -> list[Tensor]:
        """Mark the priors whose cells lie inside the padded image.

        Args:
            featmap_sizes: (height, width) of each level's feature map.
            pad_shape: (height, width, ...) of the padded image in pixels.
            device: where the flags will lie.

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
            For each level [B, height * width * priors of a cell] bool, views of one buffer.

        Raises:
            ValueError: the number of sizes is not the number of levels, or a size is negative.
        """
        sizes, counts = self._sizes(featmap_sizes), self.num_base_priors
        valid = [tuple(self._valid_sizes(sizes, pad_shape)) for pad_shape in pad_shapes]
        flat = self._flags(valid, counts, sizes, device)
        return split_levels(flat, level_rows(sizes, counts), dim=1)

    def _single_level_valid_flags(self, featmap_size: Sequence[int], valid_size: Sequence[int],
                                  count: int, device: torch.device | str) -> Tensor:
        (h, w), (valid_h, valid_w) = featmap_size, valid_size
        return self._flags([((int(valid_h), int(valid_w)),)], [count], [(int(h), int(w))],
                           device)[0]


def _cells(pixels: int, stride: Any) -> int:
    # Cells of a level that begin inside the image.
    if isinstance(stride, int):
        return -(-pixels // stride)
    return math.ceil(pixels / stride)
