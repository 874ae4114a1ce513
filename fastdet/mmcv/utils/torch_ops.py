"""Operators whose defaults torch changed, as in ``mmcv.utils.torch_ops``."""

from __future__ import annotations

import torch

__all__ = ["torch_meshgrid"]


def torch_meshgrid(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """``torch.meshgrid`` whose first axis is the first tensor's."""
    return torch.meshgrid(*tensors, indexing="ij")
