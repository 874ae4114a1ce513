"""The registry of anchor and point generators."""

from __future__ import annotations

import warnings
from typing import Any

from ...utils.registry import Registry

__all__ = ["ANCHOR_GENERATORS", "PRIOR_GENERATORS", "build_anchor_generator",
           "build_prior_generator"]

PRIOR_GENERATORS = Registry("prior generator")

#: The registry's name before points joined the anchors.
ANCHOR_GENERATORS = PRIOR_GENERATORS


def build_prior_generator(cfg: dict[str, Any], default_args: dict[str, Any] | None = None) -> Any:
    """Build an anchor or point generator from its config.

    Args:
        cfg: ``type`` and the constructor's arguments.
        default_args: arguments that ``cfg`` overrides.

    Returns:
        The generator.

    Raises:
        KeyError: ``type`` is missing or unknown.
    """
    return PRIOR_GENERATORS.build(cfg, default_args=default_args)


def build_anchor_generator(cfg: dict[str, Any], default_args: dict[str, Any] | None = None) -> Any:
    """Deprecated name of :func:`build_prior_generator`."""
    warnings.warn("build_anchor_generator is deprecated, use build_prior_generator", stacklevel=2)
    return build_prior_generator(cfg, default_args)
