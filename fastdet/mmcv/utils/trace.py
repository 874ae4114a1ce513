"""Tracing, as in ``mmcv.utils.trace``."""

from __future__ import annotations

import torch

__all__ = ["is_jit_tracing"]


def is_jit_tracing() -> bool:
    """Whether ``torch.jit.trace`` runs."""
    return torch.jit.is_tracing()
