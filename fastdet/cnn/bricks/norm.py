"""Normalisation layers by config."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from .registry import NORM_LAYERS, resolve

__all__ = ["build_norm_layer", "infer_abbr", "is_norm"]

NORM_LAYERS.register_module(["BN", "BN2d"], module=nn.BatchNorm2d)
NORM_LAYERS.register_module("BN1d", module=nn.BatchNorm1d)
NORM_LAYERS.register_module("BN3d", module=nn.BatchNorm3d)
NORM_LAYERS.register_module("SyncBN", module=nn.SyncBatchNorm)
NORM_LAYERS.register_module("GN", module=nn.GroupNorm)
NORM_LAYERS.register_module("LN", module=nn.LayerNorm)
NORM_LAYERS.register_module(["IN", "IN2d"], module=nn.InstanceNorm2d)
NORM_LAYERS.register_module("IN1d", module=nn.InstanceNorm1d)
NORM_LAYERS.register_module("IN3d", module=nn.InstanceNorm3d)

_ABBR_OF_BASE = ((_InstanceNorm, "in"), (_BatchNorm, "bn"), (nn.GroupNorm, "gn"),
                 (nn.LayerNorm, "ln"))
_ABBR_OF_WORD = (("batch", "bn"), ("group", "gn"), ("layer", "ln"), ("instance", "in"))


def infer_abbr(class_type: type) -> str:
    """The short name of a norm class, which starts the names of its parameters.

    Args:
        class_type: the class. Its attribute ``_abbr_`` decides; else its base class in torch;
            else a word in its own name; else the answer is ``'norm_layer'``.

    Raises:
        TypeError: ``class_type`` is not a class.
    """
    if not inspect.isclass(class_type):
        raise TypeError(f"class_type must be a class, got {type(class_type).__name__}")
    if hasattr(class_type, "_abbr_"):
        return class_type._abbr_
    for base, abbr in _ABBR_OF_BASE:
        if issubclass(class_type, base):
            return abbr
    for word, abbr in _ABBR_OF_WORD:
        if word in class_type.__name__.lower():
            return abbr
    return "norm_layer"


def build_norm_layer(cfg: dict[str, Any], num_features: int,
                     postfix: int | str = "") -> tuple[str, nn.Module]:
    """Build a normalisation layer.

    Args:
        cfg: ``type``, arguments of the layer (``eps`` is 1e-5 unless given), and
            ``requires_grad`` (default true) for its parameters.
        num_features: number of channels.
        postfix: appended to the short name of the layer.

    Returns:
        The name under which to add the layer, such as ``'bn1'``, and the layer.

    Raises:
        TypeError: ``cfg`` is not a dict, or ``postfix`` neither a number nor a string.
        KeyError: ``type`` is missing or unknown.
        ValueError: a ``GN`` config lacks ``num_groups``.
    """
    layer_type, options = resolve(cfg, NORM_LAYERS)
    if not isinstance(postfix, (int, str)):
        raise TypeError(f"postfix must be an int or a str, got {type(postfix).__name__}")
    name = f"{infer_abbr(layer_type)}{postfix}"
    requires_grad = options.pop("requires_grad", True)
    options.setdefault("eps", 1e-5)
    if layer_type is nn.GroupNorm or cfg["type"] == "GN":
        if "num_groups" not in options:
            raise ValueError(f"a GN config needs num_groups, got {cfg!r}")
        layer = layer_type(num_channels=num_features, **options)
    else:
        layer = layer_type(num_features, **options)
    layer.requires_grad_(requires_grad)
    return name, layer


def is_norm(layer: nn.Module, exclude: type | tuple[type, ...] | None = None) -> bool:
    """Whether a layer is a batch, instance, group or layer norm.

    Args:
        layer: the layer.
        exclude: classes that do not count.

    Raises:
        TypeError: ``exclude`` is neither a class nor a tuple of classes.
    """
    if exclude is not None:
        classes = exclude if isinstance(exclude, tuple) else (exclude,)
        if not all(inspect.isclass(c) for c in classes):
            raise TypeError(f"exclude must be a class or a tuple of classes, got {exclude!r}")
        if isinstance(layer, classes):
            return False
    return isinstance(layer, (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm))
