"""The operators of :mod:`fastdet.kernels`: which there are, and which backend their calls take."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager

import torch

import fastdet.kernels
from fastdet.kernels import get_backend
from fastdet.kernels.dispatch import Reason, device_reason, observe

__all__ = ["Choices", "expected_backend", "operators", "record_choices"]

#: Operator -> backend -> number of calls and the reason of the last one.
Choices = dict[str, dict[str, tuple[int, str]]]


def operators() -> list[str]:
    """The names of all operators: the sub-packages of ``fastdet.kernels``."""
    return sorted(m.name for m in pkgutil.iter_modules(fastdet.kernels.__path__) if m.ispkg)


def expected_backend(device: torch.device) -> tuple[str, Reason]:
    """The backend that a call on ``device`` takes, and why.

    An operator may still object to the arguments of a call, such as its dtype.
    """
    chosen = get_backend()
    reason = device_reason(device)
    if chosen == "torch":
        return "torch", "the torch backend was asked for"
    if chosen == "triton":
        return ("error", reason) if reason else ("triton", "the triton backend was asked for")
    if device.type == "cpu":
        return "torch", reason or "kernels run on the CPU only when asked for by name"
    return ("torch", reason) if reason else ("triton", "")


@contextmanager
def record_choices() -> Iterator[Choices]:
    """Collect which backend every operator call inside the block takes."""
    choices: Choices = {}

    def note(operator: str, device: torch.device, triton: bool, reason: Reason | None) -> None:
        _, why = expected_backend(device)
        backend = "triton" if triton else "torch"
        calls, _ = choices.setdefault(operator, {}).get(backend, (0, ""))
        # Only a call that left a usable GPU did so on the operator's own objection.
        choices[operator][backend] = (calls + 1, why if triton else why or reason or "")

    with observe(note):
        yield choices
