"""Plugin blocks by config."""

from __future__ import annotations

import inspect
import re
from typing import Any

from torch import nn

from .registry import PLUGIN_LAYERS, resolve

__all__ = ["build_plugin_layer", "infer_abbr"]


def infer_abbr(class_type: type) -> str:
    """The short name of a plugin class, which starts the names of its parameters.

    Args:
        class_type: the class. Its attribute ``_abbr_`` decides; else its name in snake case.

    Raises:
        TypeError: ``class_type`` is not a class.
    """
    if not inspect.isclass(class_type):
        raise TypeError(f"class_type must be a class, got {type(class_type).__name__}")
    if hasattr(class_type, "_abbr_"):
        return class_type._abbr_
    # A word starts at a capital that follows a small letter or digit, and at the last capital
    # of an upper-case run: FancyBlock -> fancy_block, SEBlock2d -> se_block2d.
    return re.sub(r"(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_",
                  class_type.__name__).lower()


def build_plugin_layer(cfg: dict[str, Any], postfix: int | str = "",
                       **kwargs: Any) -> tuple[str, nn.Module]:
    """Build a plugin block.

    Args:
        cfg: ``type`` and arguments of the block.
        postfix: appended to the short name of the block.
        kwargs: keyword arguments of the block, next to those of ``cfg``.

    Returns:
        The name under which to add the block, such as ``'context_block1'``, and the block.

    Raises:
        TypeError: ``cfg`` is not a dict, or ``postfix`` neither a number nor a string.
        KeyError: ``type`` is missing or unknown.
    """
    layer, options = resolve(cfg, PLUGIN_LAYERS)
    if not isinstance(postfix, (int, str)):
        raise TypeError(f"postfix must be an int or a str, got {type(postfix).__name__}")
    return f"{infer_abbr(layer)}{postfix}", layer(**kwargs, **options)
