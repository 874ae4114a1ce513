"""The model registry and its builders, as in ``mmdet.models.builder``.

MMDetection keeps every kind of component in one registry under several names; so does this module.
A user's own backbone, neck, head, loss or detector registers with ``@BACKBONES.register_module()``
and is then built from a config.
"""

from __future__ import annotations

from torch import nn

from fastdet.cnn.builder import MODELS as ROOT
from fastdet.utils import Registry
from fastdet.utils.types import Cfg

__all__ = [
    "MODELS", "BACKBONES", "NECKS", "ROI_EXTRACTORS", "SHARED_HEADS", "HEADS", "LOSSES",
    "DETECTORS",
    "build_backbone", "build_neck", "build_roi_extractor", "build_shared_head", "build_head",
    "build_loss", "build_detector",
]

MODELS = Registry("models", parent=ROOT)
BACKBONES = MODELS
NECKS = MODELS
ROI_EXTRACTORS = MODELS
SHARED_HEADS = MODELS
HEADS = MODELS
LOSSES = MODELS
DETECTORS = MODELS


def build_backbone(cfg: Cfg) -> nn.Module:
    """Build a backbone from its config dict; ``cfg['type']`` names the class."""
    return BACKBONES.build(cfg)


def build_neck(cfg: Cfg | list[Cfg]) -> nn.Module:
    """Build a neck from its config dict, or a chain of necks from a list of them."""
    return NECKS.build(cfg)  # type: ignore[arg-type]


def build_roi_extractor(cfg: Cfg) -> nn.Module:
    """Build a registered RoI extractor from its config dict."""
    return ROI_EXTRACTORS.build(cfg)


def build_shared_head(cfg: Cfg) -> nn.Module:
    """Build a registered shared head from its config dict."""
    return SHARED_HEADS.build(cfg)


def build_head(cfg: Cfg) -> nn.Module:
    """Build a registered head from its config dict."""
    return HEADS.build(cfg)


def build_loss(cfg: Cfg) -> nn.Module:
    """Build a registered loss from its config dict."""
    return LOSSES.build(cfg)


def build_detector(cfg: Cfg, train_cfg: Cfg | None = None,
                   test_cfg: Cfg | None = None) -> nn.Module:
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
