"""Base anchors where an operator needs them: of one data type, on one device, without a copy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = ["BaseTables", "constant_to_dynamo"]

Function = TypeVar("Function", bound=Callable[..., Any])


def constant_to_dynamo(function: Function) -> Function:
    """``torch.compiler.assume_constant_result``, which would import Dynamo (and triton) with us."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


class BaseTables:
    """The base anchors of all levels as one tensor, kept for each data type and device.

    Copying them to a GPU at every call would stall it. ``generation`` grows when the base anchors
    have been replaced or written into. A table is an attribute, which Dynamo can read.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._sources: list[tuple[Tensor, int]] = []

    def __reduce__(self) -> tuple[Any, ...]:  # a copy or a pickle of a generator starts empty
        return BaseTables, ()

    def refresh(self, levels: Sequence[Tensor]) -> BaseTables:
        """Drop what is kept if it was not made of ``levels`` as they are now."""
        if len(levels) != len(self._sources) or any(
                base is not source or _version(base) != version
                for base, (source, version) in zip(levels, self._sources)):
            self.__dict__ = {"generation": self.generation + 1,
                             "_sources": [(base, _version(base)) for base in levels]}
        return self

    def prepare(self, dtype: torch.dtype, device: torch.device) -> str:
        """Make the table of the levels given last to :meth:`refresh`, if there is none.

        Returns:
            The attribute that holds it.
        """
        index = torch.cuda.current_device() if str(device) == "cuda" else device.index
        name = f"{dtype}_{device.type}_{index}".replace(".", "_")
        if name not in self.__dict__:
            # A tensor made in inference mode could not be used in training.
            with torch.inference_mode(False), torch.no_grad():
                table = torch.cat([base.to(dtype) for base, _ in self._sources]).to(device)
            setattr(self, name, table)
        return name


def _version(tensor: Tensor) -> int:
    # Inference tensors, of a model built in inference mode, do not count their versions.
    return -1 if tensor.is_inference() else tensor._version
