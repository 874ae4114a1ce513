"""DETR (arXiv 2005.12872)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..builder import DETECTORS
from .base import Meta
from .single_stage import SingleStageDetector

__all__ = ["DETR"]


@DETECTORS.register_module()
class DETR(SingleStageDetector):
    """A backbone and a DETRHead.

    Args:
        backbone: its config.
        bbox_head: its config.
        train_cfg: settings of training, for the head.
        test_cfg: settings of the test, for the head.
        pretrained: the old spelling of the backbone's ``init_cfg``.
        init_cfg: how weights are initialised.
    """

    def __init__(self, backbone: dict[str, Any], bbox_head: dict[str, Any], train_cfg: Any = None,
                 test_cfg: Any = None, pretrained: str | None = None,
                 init_cfg: Any = None) -> None:
        super().__init__(backbone, None, bbox_head, train_cfg, test_cfg, pretrained, init_cfg)

    def forward_dummy(self, img: Tensor) -> Any:
        """The head's raw outputs for images without padding, to count operations."""
        size = tuple(img.shape[-2:])
        metas = [{"batch_input_shape": size, "img_shape": (*size, 3)} for _ in img]
        return self.bbox_head(self.extract_feat(img), metas)

    @torch.no_grad()
    def detect(self, img: Tensor, img_metas: list[Meta], rescale: bool = False) -> Any:
        """Padded detections of a batch; see :meth:`SingleStageDetector.detect`."""
        size = tuple(img.shape[-2:])
        metas = [{**meta, "batch_input_shape": size} for meta in img_metas]
        outs = self.bbox_head(self.extract_feat(img), metas)
        return self.bbox_head.detect(outs, metas, rescale=rescale)
