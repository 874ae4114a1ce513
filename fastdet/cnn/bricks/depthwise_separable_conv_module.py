"""Depthwise separable convolution."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastdet.utils.types import Size

from .conv_module import ConvModule

__all__ = ["DepthwiseSeparableConvModule"]



class DepthwiseSeparableConvModule(nn.Module):
    """A convolution of each channel by itself, then one that mixes channels.

    Source: MobileNet, `arXiv 1704.04861 <https://arxiv.org/abs/1704.04861>`_.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        kernel_size: kernel of the depthwise convolution.
        stride: its step.
        padding: its padding.
        dilation: its dilation.
        norm_cfg: config of the norms of both convolutions.
        act_cfg: config of the activations of both convolutions.
        dw_norm_cfg: norm of the depthwise convolution; ``'default'`` means ``norm_cfg``.
        dw_act_cfg: activation of the depthwise convolution; ``'default'`` means ``act_cfg``.
        pw_norm_cfg: norm of the pointwise convolution; ``'default'`` means ``norm_cfg``.
        pw_act_cfg: activation of the pointwise convolution; ``'default'`` means ``act_cfg``.
        kwargs: other arguments of both :class:`ConvModule`.

    Raises:
        ValueError: ``groups`` is given; the layer sets it.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1,
                 padding: Size = 0, dilation: Size = 1,
                 norm_cfg: dict[str, Any] | None = None,
                 act_cfg: dict[str, Any] | None = {"type": "ReLU"},
                 dw_norm_cfg: dict[str, Any] | str | None = "default",
                 dw_act_cfg: dict[str, Any] | str | None = "default",
                 pw_norm_cfg: dict[str, Any] | str | None = "default",
                 pw_act_cfg: dict[str, Any] | str | None = "default", **kwargs: Any) -> None:
        super().__init__()
        if "groups" in kwargs:
            raise ValueError(f"groups must not be given (got {kwargs['groups']!r}): the depthwise "
                             "convolution has a group per channel")

        def or_default(cfg: Any, default: Any) -> Any:
            return default if cfg == "default" else cfg

        self.depthwise_conv = ConvModule(
            in_channels, in_channels, kernel_size, stride=stride, padding=padding,
            dilation=dilation, groups=in_channels, norm_cfg=or_default(dw_norm_cfg, norm_cfg),
            act_cfg=or_default(dw_act_cfg, act_cfg), **kwargs)
        self.pointwise_conv = ConvModule(
            in_channels, out_channels, 1, norm_cfg=or_default(pw_norm_cfg, norm_cfg),
            act_cfg=or_default(pw_act_cfg, act_cfg), **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve ``x`` ``(B, C, H, W)``."""
        return self.pointwise_conv(self.depthwise_conv(x))
