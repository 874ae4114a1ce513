"""Convolutions by config."""

from __future__ import annotations

from typing import Any

from torch import nn

from .registry import CONV_LAYERS, resolve

__all__ = ["build_conv_layer"]

CONV_LAYERS.register_module("Conv1d", module=nn.Conv1d)
CONV_LAYERS.register_module(["Conv2d", "Conv"], module=nn.Conv2d)
CONV_LAYERS.register_module("Conv3d", module=nn.Conv3d)
CONV_LAYERS.register_module(["deconv", "ConvTranspose2d"], module=nn.ConvTranspose2d)
CONV_LAYERS.register_module(["deconv3d", "ConvTranspose3d"], module=nn.ConvTranspose3d)


def build_conv_layer(cfg: dict[str, Any] | None, *args: Any, **kwargs: Any) -> nn.Module:
    """Build a convolution.

    Args:
        cfg: ``type`` and arguments of the layer; ``None`` means ``dict(type='Conv2d')``.
        args: positional arguments of the layer (channels, kernel size, ...).
        kwargs: keyword arguments of the layer, next to those of ``cfg``.

    Raises:
        TypeError: ``cfg`` is not a dict, or an argument is given twice.
        KeyError: ``type`` is missing or unknown.
    """
    layer, options = resolve({"type": "Conv2d"} if cfg is None else cfg, CONV_LAYERS)
    return layer(*args, **kwargs, **options)
