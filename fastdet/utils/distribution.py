"""Devices, and the data-parallel wrapper of a model on each of them."""

from __future__ import annotations

import torch

__all__ = ["get_device"]


def get_device() -> str:
    """The device to train on here: ``'cuda'`` where there is one, else ``'cpu'``."""
    return "cuda" if torch.cuda.is_available() else "cpu"
