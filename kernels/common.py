"""What every operator's ``op.py`` needs: data types, powers of two, launch configs, buffers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .dispatch import Reason

__all__ = ["DTYPES", "Config", "Form", "autocasting", "dtype_reason", "form", "next_power_of_2",
           "optional_empty", "options", "partial_sums"]

#: What the kernels read and write. Sums are in float32 whatever the type.
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class Form(NamedTuple):
    """What checks want to know of a tensor, so that they need only run once for all alike."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device


def form(t: Tensor) -> Form:
    """The form of a tensor."""
    return Form(t.shape, t.dtype, t.device)


def dtype_reason(*tensors: Tensor | torch.dtype) -> Reason | None:
    """Why the kernels do not take one of these tensors or data types, or ``None`` if they do."""
    for t in tensors:
        dtype = t if isinstance(t, torch.dtype) else t.dtype
        if dtype not in DTYPES:
            return f"its kernels take float32, float16 and bfloat16, not {str(dtype)[6:]}"
    return None


def autocasting(device: torch.device) -> bool:
    """Whether autocast is on there; torch raises where it was asked of the meta device."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def next_power_of_2(n: int, least: int = 1) -> int:
    """The least power of two that is at least ``n`` and ``least`` (``tl.dot`` takes 16 and more).

    Args:
        n: what it has to hold; none counts as one.
        least: a power of two.
    """
    return max(least, 1 << max(0, n - 1).bit_length())


class Config(Protocol):
    """An operator's launch config: a ``NamedTuple`` of block sizes and launch options.

    Fields called ``block_*`` are the kernel's ``BLOCK_*``; ``num_warps`` and ``num_stages`` are
    Triton's; others are the operator's own and are no arguments of a kernel.
    """

    @property
    def _fields(self) -> tuple[str, ...]: ...

    def __hash__(self) -> int: ...


@lru_cache(maxsize=None, typed=True)  # tuples of two classes may be equal
def _options(config: Any, without: tuple[str, ...]) -> dict[str, int]:
    own = {name: name.upper() for name in config._fields if name.startswith("block_")}
    own |= {name: name for name in ("num_warps", "num_stages") if name in config._fields}
    return {key: getattr(config, name) for name, key in own.items() if name not in without}


def options(config: Config, without: Iterable[str] = ()) -> dict[str, int]:
    """The keyword arguments of ``launch`` that a config stands for.

    Args:
        config: the operator's config.
        without: fields that this kernel has no use for.
    """
    return dict(_options(config, tuple(without)))


def optional_empty(like: Tensor, needed: bool, memory_format: torch.memory_format =
                   torch.preserve_format) -> Tensor:
    """Memory for a gradient of ``like``, or an empty tensor where none is asked for.

    Custom operators return tensors, never ``None``, and a kernel's pointer has to point somewhere.
    """
    return torch.empty_like(like, memory_format=memory_format) if needed else like.new_empty(0)


def partial_sums(shape: Iterable[int], device: torch.device, needed: bool = True) -> Tensor:
    """A float32 buffer into which each program writes the sum of its own part, or an empty one.

    The parts are added in a fixed order afterwards: no atomics, the same bits every time.
    """
    return torch.empty(tuple(shape) if needed else (0,), dtype=torch.float32, device=device)
