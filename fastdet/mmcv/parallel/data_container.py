"""What a batch may hold beside tensors, as in ``mmcv.parallel.data_container``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["DataContainer"]


def _of_tensors(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapper(self: DataContainer, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(self.data, torch.Tensor):
            raise AttributeError(f"{type(self).__name__} has no attribute {method.__name__} "
                                 f"for type {self.datatype}")
        return method(self, *args, **kwargs)
    return wrapper


class DataContainer:
    """Data with a word on how :func:`collate` and :func:`scatter` treat it.

    Args:
        data: anything.
        stack: pad and stack the tensors of a GPU's samples; else they stay a list.
        padding_value: what is padded with.
        cpu_only: leave the data on the host, whatever it is.
        pad_dims: how many of the last dimensions are padded (1 to 3); ``None`` for none.
    """

    def __init__(self, data: Any, stack: bool = False, padding_value: int = 0,
                 cpu_only: bool = False, pad_dims: int | None = 2) -> None:
        if pad_dims not in (None, 1, 2, 3):
            raise ValueError(f"pad_dims must be None, 1, 2 or 3, got {pad_dims!r}")
        self._data = data
        self._stack = stack
        self._padding_value = padding_value
        self._cpu_only = cpu_only
        self._pad_dims = pad_dims

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.data!r})"

    def __len__(self) -> int:
        return len(self._data)

    @property
    def data(self) -> Any:
        """The data."""
        return self._data

    @property
    def datatype(self) -> type | str:
        """The data's type; a tensor's by its name."""
        return self.data.type() if isinstance(self.data, torch.Tensor) else type(self.data)

    @property
    def cpu_only(self) -> bool:
        """Whether the data stays on the host."""
        return self._cpu_only

    @property
    def stack(self) -> bool:
        """Whether samples are stacked."""
        return self._stack

    @property
    def padding_value(self) -> int:
        """What is padded with."""
        return self._padding_value

    @property
    def pad_dims(self) -> int | None:
        """How many of the last dimensions are padded."""
        return self._pad_dims

    @_of_tensors
    def size(self, *args: Any, **kwargs: Any) -> Any:
        """The tensor's size."""
        return self.data.size(*args, **kwargs)

    @_of_tensors
    def dim(self) -> int:
        """The tensor's number of dimensions."""
        return self.data.dim()
