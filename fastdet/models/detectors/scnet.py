"""SCNet (arXiv 2012.10150)."""

from __future__ import annotations

from typing import Any

from ..builder import DETECTORS
from .cascade_rcnn import CascadeRCNN

__all__ = ["SCNet"]


@DETECTORS.register_module()
class SCNet(CascadeRCNN):
    """Proposals and a SCNetRoIHead."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
