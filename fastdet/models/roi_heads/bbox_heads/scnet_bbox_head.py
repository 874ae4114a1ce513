"""Classes and boxes, and what they were seen in (SCNet, arXiv 2012.10150)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...builder import HEADS
from .convfc_bbox_head import ConvFCBBoxHead

__all__ = ["SCNetBBoxHead"]


@HEADS.register_module()
class SCNetBBoxHead(ConvFCBBoxHead):
    """A ConvFCBBoxHead that also gives its shared features."""

    def forward(self, x: Tensor,  # type: ignore[override]
                return_shared_feat: bool = False) -> tuple[Any, ...]:
        """Logits and deltas of regions, and with ``return_shared_feat`` the shared features."""
        shared = self._shared(x)
        outs = self._predictions(shared)
        return (*outs, shared) if return_shared_feat else outs
