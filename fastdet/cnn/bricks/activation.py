"""Activations by config."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.utils import build_from_cfg

from .registry import ACTIVATION_LAYERS

__all__ = ["Clamp", "HSigmoid", "HSwish", "Swish", "build_activation_layer"]

for _layer in (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.RReLU, nn.ReLU6, nn.ELU, nn.Sigmoid, nn.Tanh,
               nn.GELU, nn.SiLU, nn.Mish):
    ACTIVATION_LAYERS.register_module(module=_layer)

HSwish = nn.Hardswish
ACTIVATION_LAYERS.register_module("HSwish", module=HSwish)


@ACTIVATION_LAYERS.register_module(["Clip", "Clamp"])
class Clamp(nn.Module):
    """Limit the values to an interval.

    Args:
        min: lower end.
        max: upper end.
    """

    def __init__(self, min: float = -1.0, max: float = 1.0) -> None:
        super().__init__()
        self.min = min
        self.max = max

    def forward(self, x: Tensor) -> Tensor:
        """Clamp a tensor of any shape."""
        return torch.clamp(x, min=self.min, max=self.max)


@ACTIVATION_LAYERS.register_module()
class Swish(nn.Module):
    """``x * sigmoid(x)`` (`arXiv 1710.05941 <https://arxiv.org/abs/1710.05941>`_)."""

    def forward(self, x: Tensor) -> Tensor:
        """Activate a tensor of any shape."""
        return F.silu(x)


@ACTIVATION_LAYERS.register_module()
class HSigmoid(nn.Module):
    """A sigmoid of three straight pieces: ``clamp((x + bias) / divisor, min_value, max_value)``.

    Source: MobileNetV3, `arXiv 1905.02244 <https://arxiv.org/abs/1905.02244>`_.

    Args:
        bias: added to the input.
        divisor: divides the sum; not zero.
        min_value: lower end of the result.
        max_value: upper end of the result.

    Raises:
        ValueError: ``divisor`` is zero.
    """

    def __init__(self, bias: float = 3.0, divisor: float = 6.0, min_value: float = 0.0,
                 max_value: float = 1.0) -> None:
        super().__init__()
        warnings.warn("HSigmoid defaults to bias=3, divisor=6, as mmcv does since 1.4.4; models "
                      "trained with an older mmcv had bias=1, divisor=2", stacklevel=2)
        if divisor == 0:
            raise ValueError("divisor must not be 0")
        self.bias = bias
        self.divisor = divisor
        self.min_value = min_value
        self.max_value = max_value

    def forward(self, x: Tensor) -> Tensor:
        """Activate a tensor of any shape."""
        return ((x + self.bias) / self.divisor).clamp(self.min_value, self.max_value)


def build_activation_layer(cfg: dict[str, Any]) -> nn.Module:
    """Build an activation.

    Args:
        cfg: ``type`` and arguments of the layer.

    Raises:
        TypeError: ``cfg`` is not a dict.
        KeyError: ``type`` is missing or unknown.
    """
    return build_from_cfg(cfg, ACTIVATION_LAYERS)
