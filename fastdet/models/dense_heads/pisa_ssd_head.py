"""SSD's head with prime samples (PISA, arXiv 1904.04821)."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..builder import HEADS
from ..losses import CrossEntropyLoss, SmoothL1Loss
from .anchor_head import AnchorTargets
from .pisa_retinanet_head import prime_samples
from .ssd_head import SSDHead

__all__ = ["PISASSDHead"]


@HEADS.register_module()
class PISASSDHead(SSDHead):
    """SSD's head whose ``train_cfg`` has ``isr`` and ``carl``."""

    def losses(self, anchors: Tensor, score: Tensor, pred: Tensor,
               targets: AnchorTargets) -> dict[str, Any]:
        targets, carl = prime_samples(self, anchors, score, pred, targets, CrossEntropyLoss(),
                                      SmoothL1Loss(beta=1.0))
        return {**super().losses(anchors, score, pred, targets), **carl}
