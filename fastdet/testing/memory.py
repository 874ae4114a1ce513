"""Memory that shows who did not write into it, and who wrote beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor

__all__ = ["Guards", "guarded"]

#: Bytes before and behind every allocation, a multiple of what kernels are specialised for.
_GUARD = 512
_PATTERN = 0xA5


@dataclass
class Guards:
    """The allocations made so far, each between two strips that nobody may write into."""

    blocks: list[Tensor] = field(default_factory=list, repr=False)

    def overrun(self) -> str:
        """Where something was written beside an allocation, else empty."""
        for block in self.blocks:
            strips = torch.cat([block[:_GUARD], block[-_GUARD:]]) != _PATTERN
            if written := int(strips.sum()):
                side = "before" if int(strips[:_GUARD].sum()) else "behind"
                return (f"{written} bytes {side} an allocation of {len(block) - 2 * _GUARD} bytes "
                        "were written")
        return ""

    def allocate(self, like: Tensor) -> Tensor:
        """A tensor as ``like``, of NaN (of one, where there is none), with strips around it."""
        extent = 1 + sum((n - 1) * step for n, step in zip(like.shape, like.stride()))
        if type(like) is not Tensor or like.device.type == "meta" or like.requires_grad \
                or like.layout != torch.strided or not like.numel():
            return like
        size = extent * like.element_size()
        block = torch.full((size + 2 * _GUARD,), _PATTERN, dtype=torch.uint8, device=like.device)
        self.blocks.append(block)
        flat = block[_GUARD:_GUARD + size].view(like.dtype)
        flat.fill_(float("nan") if like.is_floating_point() else 1)
        return flat.as_strided(like.shape, like.stride(), flat.storage_offset())


@contextmanager
def guarded() -> Iterator[Guards]:
    """Inside, ``torch.empty`` and its like hold NaN, and lie between strips that are watched.

    An element that a kernel did not write shows as NaN, and :meth:`Guards.overrun` tells of a store
    that lacks its mask.
    """
    guards = Guards()

    def watched(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def wrapper(*args: Any, **kwargs: Any) -> Tensor:
            return guards.allocate(allocate(*args, **kwargs))
        return wrapper

    with ExitStack() as stack:
        for name in ("empty", "empty_like", "empty_strided"):
            stack.enter_context(mock.patch.object(torch, name, watched(getattr(torch, name))))
        stack.enter_context(
            mock.patch.object(Tensor, "new_empty", watched(Tensor.new_empty)))
        yield guards
