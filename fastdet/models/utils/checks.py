"""Checks of what a user hands to backbones and necks: one sentence each, given and expected."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from fastdet.utils.registry import UnknownTypeError

__all__ = ["check_count", "check_image", "check_indices", "check_last_map", "check_maps", "known"]


def _say(value: Any) -> str:
    """What a value is, as a message names it."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {value!r}" if isinstance(value, (int, float, str)) \
        else f"a {type(value).__name__}"


def check_image(module: nn.Module, x: Any, channels: int) -> None:
    """Refuse what is not a batch of images.

    Args:
        module: the backbone, for the message.
        x: what it got.
        channels: the channels that it was built for.

    Raises:
        TypeError: ``x`` is not a tensor.
        ValueError: ``x`` is not ``(N, channels, H, W)``.
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"{type(module).__name__} takes images (N, {channels}, H, W), "
                        f"got {_say(x)}")
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"{type(module).__name__} takes images (N, {channels}, H, W), "
                         f"got {_say(x)}")


def check_count(module: nn.Module, inputs: Any, wanted: int) -> None:
    """Refuse what is not a list or tuple of ``wanted`` maps; errors of :func:`check_maps`."""
    _check_sequence(module, inputs)
    if len(inputs) != wanted:
        raise ValueError(f"{type(module).__name__} was built for {wanted} input maps, "
                         f"got {len(inputs)}")


def _check_sequence(module: nn.Module, inputs: Any) -> None:
    if not isinstance(inputs, (list, tuple)):
        raise TypeError(f"{type(module).__name__} takes a list or tuple of maps, "
                        f"got {_say(inputs)}")


def _check_map(module: nn.Module, x: Any, level: int, channels: int | None) -> None:
    fits = isinstance(x, Tensor) and x.dim() == 4 and (
        channels is None or x.shape[1] == channels)
    if not fits:
        wanted = f"(N, {'C' if channels is None else channels}, H, W)"
        raise (ValueError if isinstance(x, Tensor) else TypeError)(
            f"{type(module).__name__} takes a map {wanted} at level {level}, got {_say(x)}")


def check_maps(module: nn.Module, inputs: Any, channels: Sequence[int | None]) -> None:
    """Refuse what is not one map per level.

    Args:
        module: the neck, for the message.
        inputs: what it got.
        channels: the channels of each level; ``None`` where any will do.

    Raises:
        TypeError: ``inputs`` is not a list or tuple, or holds something else than tensors.
        ValueError: the number of maps, or a map's dimensions or channels are wrong.
    """
    check_count(module, inputs, len(channels))
    for level, (x, c) in enumerate(zip(inputs, channels)):
        _check_map(module, x, level, c)


def check_last_map(module: nn.Module, inputs: Any, channels: int) -> None:
    """Refuse what does not end in a map ``(N, channels, H, W)``; errors of :func:`check_maps`."""
    _check_sequence(module, inputs)
    if not inputs:
        raise ValueError(f"{type(module).__name__} takes at least one map, got none")
    _check_map(module, inputs[-1], len(inputs) - 1, channels)


def check_indices(name: str, indices: Any, count: int | None) -> None:
    """Refuse what is not a list of indices below ``count``.

    Args:
        name: the argument, for the message.
        indices: what was given.
        count: how many there are to choose from; ``None`` where too high ones choose nothing.

    Raises:
        TypeError: ``indices`` is not a list or tuple.
        ValueError: one is out of range.
    """
    if not isinstance(indices, (list, tuple, range)):
        raise TypeError(f"{name} must be a list or tuple of indices, got {_say(indices)}")
    if not all(isinstance(i, int) and i >= 0 and (count is None or i < count) for i in indices):
        wanted = "0 or more" if count is None else f"0 to {count - 1}"
        raise ValueError(f"{name} must be {wanted}, got {indices}")


def known(owner: str, what: str, value: Any, table: Iterable[Any]) -> None:
    """Refuse a value that is not in a table.

    Args:
        owner: the class, for the message.
        what: what the value is, such as ``'depth'``.
        value: what was given.
        table: the known values.

    Raises:
        KeyError: it is not one of them.
    """
    names = list(table)
    if not isinstance(value, (int, str)) or value not in names:
        raise UnknownTypeError(f"{owner} has no {what} {value!r}; "
                               f"known are {', '.join(map(str, names))}")
