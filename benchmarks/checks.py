"""A provider is held against eager and the truth before anybody times it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastdet.testing import assert_accurate

from .entry import Entry

__all__ = ["Wrong", "check", "check_component", "check_path", "pooled"]

Tensors = Sequence[Tensor | None]


class Wrong(Exception):
    """A provider whose result is not the entry's, or that took another path than it names."""


def check(exact: bool, dtype: torch.dtype, got: Tensors, torchs: Tensors, truth: Tensors,
          names: Sequence[str]) -> None:
    """Hold a provider's tensors against eager's and the float64 truth.

    ``exact`` asks for eager's very bits, as do integers and flags.

    Raises:
        Wrong: with the first tensor that is off and by how much.
    """
    if len(got) != len(torchs):
        raise Wrong(f"{len(got)} tensors, eager gives {len(torchs)}")
    for name, mine, eager, true in zip(names, got, torchs, truth):
        if (mine is None) != (eager is None):
            raise Wrong(f"{name}: a gradient is missing")
        if mine is None or eager is None or true is None:
            continue
        if exact or not eager.is_floating_point():
            if mine.shape != eager.shape or not torch.equal(mine.cpu(), eager.cpu()):
                raise Wrong(f"{name}: differs from eager, which it must equal bit for bit")
            continue
        try:
            assert_accurate(name, mine, eager, true, dtype)
        except AssertionError as error:
            raise Wrong(str(error)) from None


def check_component(dtype: torch.dtype, got: Tensors, torchs: Tensors, truth: Tensors) -> None:
    """As :func:`check`, with all tensors pooled.

    Raises:
        Wrong: a tensor is missing, of another shape, or the pool is off.
    """
    shapes = [[None if t is None else t.shape for t in tensors] for tensors in (got, torchs)]
    if shapes[0] != shapes[1]:
        raise Wrong(f"shapes {shapes[0]}, eager gives {shapes[1]}")
    mine, eagers, true = (pooled(t, truth) for t in (got, torchs, truth))
    check(False, dtype, mine, eagers, true, ["all tensors"])


def pooled(tensors: Tensors, truth: Tensors) -> list[Tensor]:
    """Many tensors as one, each in units of its truth's RMS.

    Low precision makes a component's hundreds of small gradients so many draws of chance; whether
    one of them is twice as far off as eager's says nothing, whether all are says something.
    """
    return [torch.cat([(tensor.double() / true.square().mean().sqrt().clamp_min(1e-30)).flatten()
                       for tensor, true in zip(tensors, truth)
                       if tensor is not None and true is not None])]


def check_path(entry: Entry, name: str, events: Sequence[str]) -> None:
    """fastdet must have launched its kernels, and nobody else may have.

    Raises:
        Wrong: another path ran.
    """
    ours = any(event.startswith(tuple(entry.kernels)) for event in events)
    if name == "fastdet" and not ours:
        raise Wrong(f"no kernel {'|'.join(entry.kernels)}* was launched")
    if name != "fastdet" and ours:
        raise Wrong("ran fastdet's kernels")
