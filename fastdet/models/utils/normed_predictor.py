"""Linear and convolutional predictors of normalised features and weights (Seesaw Loss).

Source: Seesaw Loss, https://arxiv.org/abs/2008.10032
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastdet.cnn import CONV_LAYERS, normal_init

from .builder import LINEAR_LAYERS

__all__ = ["NormedConv2d", "NormedLinear"]


class _Normed(nn.Module):
    """What the two layers share: how they normalise."""

    def __init__(self, *args: Any, tempearture: float = 20, power: float = 1.0,
                 eps: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tempearture = tempearture
        self.power = power
        self.eps = eps

    def _normed(self, x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
        return x / (length.pow(self.power) + self.eps)


@LINEAR_LAYERS.register_module("NormedLinear")
class NormedLinear(_Normed, nn.Linear):
    """Linear layer of ``tempearture * x / (|x|**power + eps)`` and of weights normalised alike.

    Args:
        *args: arguments of ``torch.nn.Linear``.
        tempearture: factor on the normalised features. (MMDetection's spelling.)
        power: power of the norms.
        eps: added to the norms.
        **kwargs: further arguments of ``torch.nn.Linear``.
    """

    def __init__(self, *args: Any, tempearture: float = 20, power: float = 1.0,
                 eps: float = 1e-6, **kwargs: Any) -> None:
        super().__init__(*args, tempearture=tempearture, power=power, eps=eps, **kwargs)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the weight from a normal distribution of std 0.01; zero the bias."""
        normal_init(self, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_features)`` to ``(N, out_features)``."""
        x = self._normed(x, 1) * self.tempearture
        return F.linear(x, self._normed(self.weight, 1), self.bias)


@CONV_LAYERS.register_module("NormedConv2d")
class NormedConv2d(_Normed, nn.Conv2d):
    """Convolution of features normalised over the channels, with weights normalised alike.

    Unlike :class:`NormedLinear` it starts with torch's own draw of a convolution.

    Args:
        *args: arguments of ``torch.nn.Conv2d``.
        tempearture: factor on the normalised features. (MMDetection's spelling.)
        power: power of the norms.
        eps: added to the norms.
        norm_over_kernel: take the norm of a whole filter, not of each of its taps.
        **kwargs: further arguments of ``torch.nn.Conv2d``.
    """

    def __init__(self, *args: Any, tempearture: float = 20, power: float = 1.0,
                 eps: float = 1e-6, norm_over_kernel: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, tempearture=tempearture, power=power, eps=eps, **kwargs)
        self.norm_over_kernel = norm_over_kernel

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H', W')``."""
        weight = self._normed(self.weight, (1, 2, 3) if self.norm_over_kernel else 1)
        return self._conv_forward(self._normed(x, 1) * self.tempearture, weight, self.bias)
