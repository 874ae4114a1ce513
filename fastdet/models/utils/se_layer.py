"""Squeeze-and-Excitation and Dynamic ReLU: channels scaled by what the whole map says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.kernels.dyrelu import dyrelu
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg

__all__ = ["DyReLU", "SELayer"]



def _two_configs(act_cfg: Cfg | Sequence[Cfg]) -> Sequence[Cfg]:
    """The configs of the two activations; one dict stands for both."""
    if isinstance(act_cfg, dict):
        return act_cfg, act_cfg
    if (not isinstance(act_cfg, Sequence) or len(act_cfg) != 2
            or not all(isinstance(cfg, dict) for cfg in act_cfg)):
        raise ValueError(f"act_cfg must be a dict or a sequence of two dicts, got {act_cfg!r}")
    return act_cfg


class SELayer(BaseModule):
    """Squeeze-and-Excitation: scale each channel by a weight that the mean of the map gives.

    Args:
        channels: channels of the map.
        ratio: the hidden layer has ``int(channels / ratio)`` channels.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        act_cfg: configs of the activations after the two convolutions; one dict stands for both.
        init_cfg: the initialiser's config.

    Raises:
        ValueError: ``act_cfg`` is not one or two dicts.

    Source: Squeeze-and-Excitation Networks, https://arxiv.org/abs/1709.01507
    """

    def __init__(self, channels: int, ratio: float = 16, conv_cfg: Cfg | None = None,
                 act_cfg: Cfg | Sequence[Cfg] = ({"type": "ReLU"}, {"type": "Sigmoid"}),
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        squeeze_act, excite_act = _two_configs(act_cfg)
        hidden = int(channels / ratio)
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.conv1 = ConvModule(channels, hidden, 1, conv_cfg=conv_cfg, act_cfg=squeeze_act)
        self.conv2 = ConvModule(hidden, channels, 1, conv_cfg=conv_cfg, act_cfg=excite_act)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of ``x`` ``(N, channels, H, W)``."""
        return x * self.conv2(self.conv1(self.global_avgpool(x)))


class DyReLU(BaseModule):
    """Dynamic ReLU: the larger of two lines per channel, which the mean of the map draws.

    The form that DyHead uses for its task-aware attention.

    Args:
        channels: channels of the map.
        ratio: the hidden layer has ``int(channels / ratio)`` channels.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        act_cfg: configs of the activations after the two convolutions; one dict stands for both.
        init_cfg: the initialiser's config.

    Raises:
        ValueError: ``act_cfg`` is not one or two dicts.

    Source: Dynamic ReLU, https://arxiv.org/abs/2003.10027; Dynamic Head,
    https://arxiv.org/abs/2106.08322
    """

    expansion = 4  # slope and intercept of two lines

    def __init__(self, channels: int, ratio: float = 4, conv_cfg: Cfg | None = None,
                 act_cfg: Cfg | Sequence[Cfg] = (
                     {"type": "ReLU"}, {"type": "HSigmoid", "bias": 3.0, "divisor": 6.0}),
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        squeeze_act, excite_act = _two_configs(act_cfg)
        hidden = int(channels / ratio)
        self.channels = channels
        self.global_avgpool = nn.AdaptiveAvgPool2d(1)
        self.conv1 = ConvModule(channels, hidden, 1, conv_cfg=conv_cfg, act_cfg=squeeze_act)
        self.conv2 = ConvModule(hidden, channels * self.expansion, 1, conv_cfg=conv_cfg,
                                act_cfg=excite_act)

    @staticmethod
    def pool(x: Tensor) -> Tensor:
        """The mean ``(N, channels)`` of a map.

        Of a sum by a number the gradient is an expanded view, of a mean it is a whole map.
        """
        return x.sum((2, 3)) / (x.shape[2] * x.shape[3])

    def coefficients(self, mean: Tensor) -> Tensor:
        """Slopes and intercepts ``(N, 4 * channels)`` that means ``(N, channels)`` ask for."""
        return self.conv2(self.conv1(mean[:, :, None, None])).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Activate ``x`` ``(N, channels, H, W)``."""
        return dyrelu(x, self.coefficients(self.pool(x)))
