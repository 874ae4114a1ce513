"""The root of the registries of models, as in ``mmcv.cnn.builder``."""

from __future__ import annotations

from typing import Any

from fastdet.runner import Sequential
from fastdet.utils import Registry, build_from_cfg
from fastdet.utils.types import Cfg

__all__ = ["MODELS", "build_model_from_cfg"]


def build_model_from_cfg(cfg: Cfg | list[Cfg], registry: Registry,
                         default_args: Cfg | None = None) -> Any:
    """Build one model from a dict, or a ``Sequential`` of models from a list of dicts.

    Args:
        cfg: the config or configs.
        registry: where a ``type`` is looked up.
        default_args: arguments that each config overrides.
    """
    if isinstance(cfg, list):
        return Sequential(*[build_from_cfg(c, registry, default_args) for c in cfg])
    return build_from_cfg(cfg, registry, default_args)


MODELS = Registry("model", build_func=build_model_from_cfg, scope="mmcv")
