"""The model registry and its builders, as in ``mmdet.models.builder``.

MMDetection keeps every kind of component in one registry under several names; so does this module.
A user's own backbone, neck, head, loss or detector registers with ``@BACKBONES.register_module()``
and is then built from a config.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fastdet.runner import Sequential
from fastdet.utils import Registry, build_from_cfg

__all__ = [
    "MODELS", "BACKBONES", "NECKS", "ROI_EXTRACTORS", "SHARED_HEADS", "HEADS", "LOSSES",
    "DETECTORS",
    "build_backbone", "build_neck", "build_roi_extractor", "build_shared_head", "build_head",
    "build_loss", "build_detector",
]

Config = dict[str, Any]


def _build_model(cfg: Config | list[Config], registry: Registry,
                 default_args: Config | None = None) -> Any:
    """Build one model from a dict, or a ``Sequential`` of models from a list of dicts."""
    if isinstance(cfg, list):
        return Sequential(*[build_from_cfg(c, registry, default_args) for c in cfg])
    return build_from_cfg(cfg, registry, default_args)


MODELS = Registry("models", build_func=_build_model)
BACKBONES = MODELS
NECKS = MODELS
ROI_EXTRACTORS = MODELS
SHARED_HEADS = MODELS
HEADS = MODELS
LOSSES = MODELS
DETECTORS = MODELS


def build_backbone(cfg: Config) -> nn.Module:
    """Build a backbone from its config dict; ``cfg['type']`` names the class."""
    return BACKBONES.build(cfg)


def build_neck(cfg: Config | list[Config]) -> nn.Module:
    """Build a neck from its config dict, or a chain of necks from a list of them."""
    return NECKS.build(cfg)  # type: ignore[arg-type]


def build_roi_extractor(cfg: Config) -> nn.Module:
    """Build a registered RoI extractor from its config dict."""
    return ROI_EXTRACTORS.build(cfg)


def build_shared_head(cfg: Config) -> nn.Module:
    """Build a registered shared head from its config dict."""
    return SHARED_HEADS.build(cfg)


def build_head(cfg: Config) -> nn.Module:
    """Build a registered head from its config dict."""
    return HEADS.build(cfg)


def build_loss(cfg: Config) -> nn.Module:
    """Build a registered loss from its config dict."""
    return LOSSES.build(cfg)


def build_detector(cfg: Config, train_cfg: Config | None = None,
                   test_cfg: Config | None = None) -> nn.Module:
    """Build a registered detector from its config dict.

    Args:
        cfg: the detector's config.
        train_cfg: settings for training, where ``cfg`` does not hold them.
        test_cfg: settings for testing, where ``cfg`` does not hold them.

    Raises:
        ValueError: ``train_cfg`` or ``test_cfg`` is given here and in ``cfg``.
    """
    for key, value in (("train_cfg", train_cfg), ("test_cfg", test_cfg)):
        if value is not None and cfg.get(key) is not None:
            raise ValueError(f"{key} must be given once, "
                             "got it as an argument and in the model config")
    return DETECTORS.build(cfg, default_args={"train_cfg": train_cfg, "test_cfg": test_cfg})
