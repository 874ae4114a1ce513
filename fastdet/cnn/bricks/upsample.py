"""Upsampling layers by config."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.runner.weight_init import xavier_init

from .registry import UPSAMPLE_LAYERS, resolve

__all__ = ["PixelShufflePack", "build_upsample_layer"]

UPSAMPLE_LAYERS.register_module(["nearest", "bilinear"], module=nn.Upsample)
UPSAMPLE_LAYERS.register_module("deconv", module=nn.ConvTranspose2d)
UPSAMPLE_LAYERS.register_module("deconv3d", module=nn.ConvTranspose3d)


@UPSAMPLE_LAYERS.register_module("pixel_shuffle")
class PixelShufflePack(nn.Module):
    """A convolution whose channels become pixels (`arXiv 1609.05158
    <https://arxiv.org/abs/1609.05158>`_).

    Args:
        in_channels: channels of the input.
        out_channels: channels of the result.
        scale_factor: the result is this many times higher and wider.
        upsample_kernel: kernel size of the convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, scale_factor: int,
                 upsample_kernel: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.scale_factor = scale_factor
        self.upsample_kernel = upsample_kernel
        self.upsample_conv = nn.Conv2d(in_channels, out_channels * scale_factor**2,
                                       upsample_kernel, padding=(upsample_kernel - 1) // 2)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the convolution's weight from Xavier's uniform distribution."""
        xavier_init(self.upsample_conv, distribution="uniform")

    def forward(self, x: Tensor) -> Tensor:
        """Upsample ``x`` ``(B, C, H, W)`` to ``(B, out_channels, H * scale, W * scale)``."""
        return F.pixel_shuffle(self.upsample_conv(x), self.scale_factor)


def build_upsample_layer(cfg: dict[str, Any], *args: Any, **kwargs: Any) -> nn.Module:
    """Build an upsampling layer.

    Args:
        cfg: ``type`` (``'nearest'``, ``'bilinear'``, ``'deconv'``, ``'pixel_shuffle'``, ...) and
            arguments of the layer, such as ``scale_factor``.
        args: positional arguments of the layer.
        kwargs: keyword arguments of the layer, next to those of ``cfg``.

    Raises:
        TypeError: ``cfg`` is not a dict.
        KeyError: ``type`` is missing or unknown.
    """
    layer, options = resolve(cfg, UPSAMPLE_LAYERS)
    if layer is nn.Upsample and isinstance(cfg["type"], str):
        options["mode"] = cfg["type"].rpartition(".")[-1]
    return layer(*args, **kwargs, **options)
