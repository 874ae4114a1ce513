"""What would make the host wait for a GPU, counted on whatever device is there."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["SyncCounter"]

#: Operators whose result, or whose result's size, the host must see.
_OPERATORS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::_unique",
              "aten::_unique2", "aten::unique_dim", "aten::equal", "aten::is_nonzero"}

#: Indexing, where a mask among the indices is a nonzero.
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}

#: Methods that copy to the host, and are no operator.
_COPIES = {getattr(Tensor, name): name for name in ("cpu", "numpy", "tolist", "__array__")}


class _Copies(TorchFunctionMode):
    def __init__(self, counts: Counter[str]) -> None:
        super().__init__()
        self.counts = counts
        self.on_host: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = _COPIES.get(func)
        # What was copied before does not wait again.
        if name and args[0].untyped_storage().data_ptr() not in self.on_host:
            self.counts[name] += 1
        found = func(*args, **(kwargs or {}))
        if name == "cpu":
            self.on_host.add(found.untyped_storage().data_ptr())
        return found


class SyncCounter(TorchDispatchMode):
    """Counts host syncs in a ``with`` block; a CPU shows what a GPU would do.

    Counted: single numbers read by the host (``item``, ``bool``, ``float``), ``nonzero``,
    ``masked_select``, ``unique``, masks as indices, and copies by ``cpu``, ``numpy``, ``tolist``.
    What a custom operator does inside is not seen.

    Attributes:
        counts: of each kind, by the operator's or the method's name.
        operators: how many operators ran.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.operators = 0
        self._copies = _Copies(self.counts)

    @property
    def total(self) -> int:
        """All of :attr:`counts`."""
        return sum(self.counts.values())

    def __enter__(self) -> SyncCounter:
        self._copies.__enter__()
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        super().__exit__(kind, error, trace)
        self._copies.__exit__(kind, error, trace)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        self.operators += 1
        if name in _OPERATORS:
            self.counts[name] += 1
        elif name in _INDEXING and any(
                isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            self.counts["mask as index"] += 1
        return func(*args, **(kwargs or {}))
