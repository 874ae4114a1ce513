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

#: Bytes before and behind every allocation: a multiple of what kernels are specialised for, and as
#: many as a block of any of them reaches past an end.
_GUARD = 16384
_PATTERN = 0xA5


@dataclass
class Guards:
    """Tensors, each between two strips that nobody may write into."""

    #: Bytes of each with its strips, and what is in a strip.
    blocks: list[tuple[Tensor, Tensor]] = field(default_factory=list, repr=False)

    def overrun(self) -> str:
        """Where something was written beside a tensor, else empty."""
        for block, strip in self.blocks:
            for side, there in (("before", block[:_GUARD]), ("behind", block[-_GUARD:])):
                if written := int((there != strip).sum()):
                    return (f"{written} bytes {side} a tensor of {len(block) - 2 * _GUARD} bytes "
                            "were written")
        return ""

    def _inside(self, like: Tensor, strip: Tensor) -> Tensor:
        """A tensor of the size and strides of ``like``, between strips."""
        extent = 1 + sum((n - 1) * step for n, step in zip(like.shape, like.stride()))
        own = torch.full((extent * like.element_size(),), 0, dtype=torch.uint8, device=like.device)
        block = torch.cat([strip, own, strip])
        self.blocks.append((block, strip))
        flat = block[_GUARD:-_GUARD].view(like.dtype)
        return flat.as_strided(like.shape, like.stride(), flat.storage_offset())

    def allocate(self, like: Tensor, zero: bool = False) -> Tensor:
        """A tensor as ``like`` between canaries, of zeros or of NaN (of one, where there is none).
        """
        if type(like) is not Tensor or like.device.type == "meta" or like.requires_grad \
                or like.layout != torch.strided or not like.numel():
            return like
        strip = torch.full((_GUARD,), _PATTERN, dtype=torch.uint8, device=like.device)
        value = 0 if zero else float("nan") if like.is_floating_point() else 1
        return self._inside(like, strip).fill_(value)

    def between(self, tensor: Tensor) -> Tensor:
        """A copy of a contiguous tensor between NaNs (99, where there is none), so that what is
        read beside it shows."""
        beside = torch.full((_GUARD // tensor.element_size(),), dtype=tensor.dtype,
                            fill_value=float("nan") if tensor.is_floating_point() else 99,
                            device=tensor.device)
        return self._inside(tensor, beside.view(torch.uint8)).copy_(tensor).detach()


@contextmanager
def guarded() -> Iterator[Guards]:
    """Inside, ``torch.empty`` and its like hold NaN, and they and ``torch.zeros`` and its like lie
    between strips that are watched.

    An element that a kernel did not write shows as NaN, and :meth:`Guards.overrun` tells of a store
    that lacks its mask.
    """
    guards = Guards()

    def watched(allocate: Callable[..., Tensor], zero: bool) -> Callable[..., Tensor]:
        def wrapper(*args: Any, **kwargs: Any) -> Tensor:
            return guards.allocate(allocate(*args, **kwargs), zero)
        return wrapper

    with ExitStack() as stack:
        for owner, names in ((torch, ("empty", "empty_like", "empty_strided", "zeros",
                                      "zeros_like")), (Tensor, ("new_empty", "new_zeros"))):
            for name in names:
                stack.enter_context(mock.patch.object(
                    owner, name, watched(getattr(owner, name), "zeros" in name)))
        yield guards
