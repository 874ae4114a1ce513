"""QueryInst (arXiv 2105.01928)."""

from __future__ import annotations

from typing import Any

from ..builder import DETECTORS
from .sparse_rcnn import SparseRCNN

__all__ = ["QueryInst"]


@DETECTORS.register_module()
class QueryInst(SparseRCNN):
    """Learned proposals and a SparseRoIHead with masks.

    Args:
        backbone: its config.
        rpn_head: its config.
        roi_head: its config.
        train_cfg: ``rpn`` and ``rcnn``.
        test_cfg: ``rpn`` and ``rcnn``.
        neck: its config.
        pretrained: the old spelling of the backbone's ``init_cfg``.
        init_cfg: how weights are initialised.
    """

    def __init__(self, backbone: dict[str, Any], rpn_head: dict[str, Any],
                 roi_head: dict[str, Any], train_cfg: Any, test_cfg: Any, neck: Any = None,
                 pretrained: str | None = None, init_cfg: Any = None) -> None:
        super().__init__(backbone=backbone, neck=neck, rpn_head=rpn_head, roi_head=roi_head,
                         train_cfg=train_cfg, test_cfg=test_cfg, pretrained=pretrained,
                         init_cfg=init_cfg)
