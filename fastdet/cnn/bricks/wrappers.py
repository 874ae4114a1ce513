"""The layers that mmcv wraps for empty batches, which today's PyTorch accepts itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import (
    Conv2d,
    Conv3d,
    ConvTranspose2d,
    ConvTranspose3d,
    Linear,
    MaxPool2d,
    MaxPool3d,
)

__all__ = [
    "Conv2d", "Conv3d", "ConvTranspose2d", "ConvTranspose3d", "Linear", "MaxPool2d", "MaxPool3d",
    "NewEmptyTensorOp", "obsolete_torch_version",
]


def obsolete_torch_version(torch_version: Any, version_threshold: Any) -> bool:
    """Whether a version, as a tuple of numbers, is not above a threshold."""
    return torch_version == "parrots" or torch_version <= version_threshold


class NewEmptyTensorOp(torch.autograd.Function):
    """``NewEmptyTensorOp.apply(x, shape)``: an empty tensor of another shape in ``x``'s graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, new_shape: tuple[int, ...]) -> Tensor:
        """Make the tensor; ``new_shape`` holds a zero, or its numbers are arbitrary."""
        ctx.shape = x.shape
        return x.new_empty(new_shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """A gradient of the input's shape, which is empty where the input is."""
        return NewEmptyTensorOp.apply(grads[0], ctx.shape), None
