"""Padding layers by config."""

from __future__ import annotations

from typing import Any

from torch import nn

from .registry import PADDING_LAYERS, resolve

__all__ = ["build_padding_layer"]

PADDING_LAYERS.register_module("zero", module=nn.ZeroPad2d)
PADDING_LAYERS.register_module("reflect", module=nn.ReflectionPad2d)
PADDING_LAYERS.register_module("replicate", module=nn.ReplicationPad2d)


def build_padding_layer(cfg: dict[str, Any], *args: Any, **kwargs: Any) -> nn.Module:
    """Build a padding layer.

    Args:
        cfg: ``type`` (``'zero'``, ``'reflect'`` or ``'replicate'``) and arguments of the layer.
        args: positional arguments of the layer: the padding.
        kwargs: keyword arguments of the layer, next to those of ``cfg``.

    Raises:
        TypeError: ``cfg`` is not a dict.
        KeyError: ``type`` is missing or unknown.
    """
    layer, options = resolve(cfg, PADDING_LAYERS)
    return layer(*args, **kwargs, **options)
