"""Registries of transformers and of linear layers, as in ``mmdet.models.utils.builder``."""

from __future__ import annotations

from typing import Any

from torch import nn

from fastdet.utils import Registry, build_from_cfg
from fastdet.utils.registry import resolve

__all__ = ["LINEAR_LAYERS", "TRANSFORMER", "build_linear_layer", "build_transformer"]

TRANSFORMER = Registry("Transformer")
LINEAR_LAYERS = Registry("linear layers")
LINEAR_LAYERS.register_module("Linear", module=nn.Linear)


def build_transformer(cfg: dict[str, Any], default_args: dict[str, Any] | None = None) -> nn.Module:
    """Build a transformer from its config dict.

    Args:
        cfg: ``type``, a registered name or a class, and arguments of the constructor.
        default_args: arguments that ``cfg`` overrides.

    Raises:
        TypeError: ``cfg`` is not a dict.
        KeyError: ``type`` is missing or unknown.
    """
    return build_from_cfg(cfg, TRANSFORMER, default_args)


def build_linear_layer(cfg: dict[str, Any] | None, *args: Any, **kwargs: Any) -> nn.Module:
    """Build a linear layer.

    Args:
        cfg: ``type``, a registered name, and further arguments of the layer; ``None`` stands for
            ``dict(type='Linear')``.
        *args: positional arguments of the layer.
        **kwargs: keyword arguments of the layer.

    Raises:
        TypeError: ``cfg`` is not a dict.
        KeyError: ``type`` is missing or unknown.
    """
    layer, options = resolve({"type": "Linear"} if cfg is None else cfg, LINEAR_LAYERS)
    return layer(*args, **kwargs, **options)
