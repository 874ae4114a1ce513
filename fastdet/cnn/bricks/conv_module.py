"""Convolution, norm and activation in one block."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from fastdet.runner.weight_init import constant_init, kaiming_init

from .activation import build_activation_layer
from .conv import build_conv_layer
from .norm import build_norm_layer
from .padding import build_padding_layer
from .registry import ACTIVATION_LAYERS, PLUGIN_LAYERS, resolve

__all__ = ["ConvModule"]

_Size = int | tuple[int, ...]


def _takes_inplace(cfg: dict[str, Any]) -> bool:
    return "inplace" in inspect.signature(resolve(cfg, ACTIVATION_LAYERS)[0]).parameters


@PLUGIN_LAYERS.register_module()
class ConvModule(nn.Module):
    """A convolution with an optional norm, activation, spectral norm and padding layer.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        kernel_size: side or sides of the kernel.
        stride: step of the kernel.
        padding: pixels added to each side of the input.
        dilation: spacing of the kernel's taps.
        groups: groups of channels.
        bias: add a bias; ``'auto'`` adds one where there is no norm.
        conv_cfg: config of the convolution; ``None`` means ``Conv2d``.
        norm_cfg: config of the norm; ``None`` means no norm.
        act_cfg: config of the activation; ``None`` means no activation.
        inplace: let the activation write into its input, where the activation can.
        with_spectral_norm: divide the weight by its largest singular value.
        padding_mode: ``'reflect'``, ``'replicate'`` or another padding layer, which runs before the
            convolution. ``'zeros'`` and, as in mmcv, ``'circular'`` are zeros that it adds itself.
        order: the order of ``'conv'``, ``'norm'`` and ``'act'``.

    Raises:
        TypeError: a config is not a dict, or ``order`` not a tuple.
        ValueError: ``order`` is not a permutation of the three names.
        KeyError: a config's type is unknown.
    """

    _abbr_ = "conv_block"

    def __init__(self, in_channels: int, out_channels: int, kernel_size: _Size, stride: _Size = 1,
                 padding: _Size = 0, dilation: _Size = 1, groups: int = 1,
                 bias: bool | str = "auto", conv_cfg: dict[str, Any] | None = None,
                 norm_cfg: dict[str, Any] | None = None,
                 act_cfg: dict[str, Any] | None = {"type": "ReLU"},
                 inplace: bool = True, with_spectral_norm: bool = False,
                 padding_mode: str = "zeros",
                 order: tuple[str, str, str] = ("conv", "norm", "act")) -> None:
        super().__init__()
        for name, cfg in (("conv_cfg", conv_cfg), ("norm_cfg", norm_cfg), ("act_cfg", act_cfg)):
            if not (cfg is None or isinstance(cfg, dict)):
                raise TypeError(f"{name} must be a dict or None, got {type(cfg).__name__}: {cfg!r}")
        if not isinstance(order, tuple):
            raise TypeError(f"order must be a tuple, got {type(order).__name__}: {order!r}")
        if sorted(order) != ["act", "conv", "norm"]:
            raise ValueError(f"order must be a permutation of ('conv', 'norm', 'act'), got {order}")
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.act_cfg = act_cfg
        self.inplace = inplace
        self.with_spectral_norm = with_spectral_norm
        self.with_explicit_padding = padding_mode not in ("zeros", "circular")
        self.order = order
        self.with_norm = norm_cfg is not None
        self.with_activation = act_cfg is not None
        self.with_bias = not self.with_norm if bias == "auto" else bool(bias)

        conv_padding: _Size = padding
        if self.with_explicit_padding:
            # A padding layer wants (left, right, top, bottom) where a convolution wants (h, w).
            sides = padding if isinstance(padding, int) else tuple(
                p for p in reversed(padding) for _ in range(2))
            self.padding_layer = build_padding_layer({"type": padding_mode}, sides)
            conv_padding = 0
        conv: Any = build_conv_layer(
            conv_cfg, in_channels, out_channels, kernel_size, stride=stride, padding=conv_padding,
            dilation=dilation, groups=groups, bias=self.with_bias)
        self.conv = nn.utils.spectral_norm(conv) if with_spectral_norm else conv

        self.in_channels = conv.in_channels
        self.out_channels = conv.out_channels
        self.kernel_size = conv.kernel_size
        self.stride = conv.stride
        self.padding = padding
        self.dilation = conv.dilation
        self.transposed = conv.transposed
        self.output_padding = conv.output_padding
        self.groups = conv.groups

        self.norm_name: str | None = None
        if norm_cfg is not None:
            channels = out_channels if order.index("norm") > order.index("conv") else in_channels
            self.norm_name, norm = build_norm_layer(norm_cfg, channels)
            self.add_module(self.norm_name, norm)
            if self.with_bias and isinstance(norm, (_BatchNorm, _InstanceNorm)):
                warnings.warn("the bias of a convolution is useless before a batch or instance "
                              "norm", stacklevel=2)
        if act_cfg is not None:
            act = dict(act_cfg)
            if _takes_inplace(act):
                act.setdefault("inplace", inplace)
            self.activate = build_activation_layer(act)
        self.init_weights()

    @property
    def norm(self) -> nn.Module | None:
        """The norm layer, or ``None``."""
        return getattr(self, self.norm_name) if self.norm_name else None

    def init_weights(self) -> None:
        """Kaiming's normal distribution for the convolution, ones and zeros for the norm.

        A convolution with an ``init_weights`` of its own has initialised itself.
        """
        if not hasattr(self.conv, "init_weights"):
            nonlinearity, a = "relu", 0.0
            if self.act_cfg is not None and self.act_cfg["type"] == "LeakyReLU":
                nonlinearity, a = "leaky_relu", self.act_cfg.get("negative_slope", 0.01)
            kaiming_init(self.conv, a=a, nonlinearity=nonlinearity)
        if self.norm is not None:
            constant_init(self.norm, 1, bias=0)

    def forward(self, x: Tensor, activate: bool = True, norm: bool = True) -> Tensor:
        """Run the layers in their order.

        Args:
            x: ``(B, C, H, W)``.
            activate: run the activation, if there is one.
            norm: run the norm, if there is one.

        Returns:
            ``(B, out_channels, H', W')``.
        """
        for step in self.order:
            if step == "conv":
                if self.with_explicit_padding:
                    x = self.padding_layer(x)
                x = self.conv(x)
            elif step == "norm" and norm and self.norm_name is not None:
                x = getattr(self, self.norm_name)(x)
            elif step == "act" and activate and self.with_activation:
                x = self.activate(x)
        return x
