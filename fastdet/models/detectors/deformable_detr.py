"""Deformable DETR (arXiv 2010.04159)."""

from __future__ import annotations

from typing import Any

from ..builder import DETECTORS
from .detr import DETR
from .single_stage import SingleStageDetector

__all__ = ["DeformableDETR"]


@DETECTORS.register_module()
class DeformableDETR(DETR):
    """A backbone, a neck and a DeformableDETRHead.

    Args:
        args: of :class:`SingleStageDetector`.
        kwargs: likewise.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        SingleStageDetector.__init__(self, *args, **kwargs)
