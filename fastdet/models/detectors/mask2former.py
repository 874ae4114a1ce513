"""Mask2Former (arXiv 2112.01527)."""

from __future__ import annotations

from ..builder import DETECTORS
from .maskformer import MaskFormer

__all__ = ["Mask2Former"]


@DETECTORS.register_module()
class Mask2Former(MaskFormer):
    """A :class:`MaskFormer` with a Mask2FormerHead."""
