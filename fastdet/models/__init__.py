"""Backbones, necks and their parts, as in ``mmdet.models``."""

import fastdet.ops  # noqa: F401  # registers the layers that configs call DCN, DCNv2 and SAC

from .backbones import *  # noqa: F403
from .backbones import __all__ as _backbones
from .builder import (
    BACKBONES,
    DETECTORS,
    HEADS,
    LOSSES,
    MODELS,
    NECKS,
    ROI_EXTRACTORS,
    SHARED_HEADS,
    build_backbone,
    build_detector,
    build_head,
    build_loss,
    build_neck,
    build_roi_extractor,
    build_shared_head,
)
from .dense_heads import *  # noqa: F403
from .dense_heads import __all__ as _dense_heads
from .detectors import *  # noqa: F403
from .detectors import __all__ as _detectors
from .losses import *  # noqa: F403
from .losses import __all__ as _losses
from .necks import *  # noqa: F403
from .necks import __all__ as _necks
from .plugins import *  # noqa: F403
from .plugins import __all__ as _plugins
from .roi_heads import *  # noqa: F403
from .roi_heads import __all__ as _roi_heads
from .seg_heads import *  # noqa: F403
from .seg_heads import __all__ as _seg_heads

__all__ = [
    "BACKBONES", "NECKS", "ROI_EXTRACTORS", "SHARED_HEADS", "HEADS", "LOSSES", "DETECTORS",
    "MODELS",
    "build_backbone", "build_neck", "build_roi_extractor", "build_shared_head", "build_head",
    "build_loss", "build_detector",
]
__all__ += _backbones
__all__ += _necks
__all__ += _dense_heads
__all__ += _detectors
__all__ += _losses
__all__ += _plugins
__all__ += _roi_heads
__all__ += _seg_heads
