"""The region proposal network on its own (arXiv 1506.01497)."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from fastdet.core.bbox import bbox_mapping

from ..builder import DETECTORS, build_backbone, build_head, build_neck
from .base import BaseDetector, Meta
from .single_stage import with_pretrained

__all__ = ["RPN"]


@DETECTORS.register_module()
class RPN(BaseDetector):
    """Proposes regions that may hold an object.

    Args:
        backbone: its config.
        neck: its config.
        rpn_head: its config.
        train_cfg: ``rpn`` has the head's settings of training.
        test_cfg: ``rpn`` has the head's settings of the test.
        pretrained: the old spelling of the backbone's ``init_cfg``.
        init_cfg: how weights are initialised.
    """

    def __init__(self, backbone: dict[str, Any], neck: dict[str, Any] | None,
                 rpn_head: dict[str, Any], train_cfg: Any, test_cfg: Any,
                 pretrained: str | None = None, init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.backbone = build_backbone(with_pretrained(backbone, pretrained))
        self.neck = None if neck is None else build_neck(neck)
        self.rpn_head = build_head({
            **rpn_head, "train_cfg": None if train_cfg is None else train_cfg["rpn"],
            "test_cfg": test_cfg["rpn"]})
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg

    def extract_feat(self, img: Tensor) -> Any:
        """Feature maps of images [B, 3, H, W]."""
        x = self.backbone(img)
        return self.neck(x) if self.with_neck else x

    def forward_dummy(self, img: Tensor) -> Any:
        """The head's raw outputs, to count operations."""
        return self.rpn_head(self.extract_feat(img))

    def forward_train(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                      gt_bboxes: list[Tensor] | None = None,
                      gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Any]:
        """Losses of a batch; see ``SingleStageDetector``."""
        if isinstance(self.train_cfg["rpn"], dict) and self.train_cfg["rpn"].get("debug", False):
            self.rpn_head.debug_imgs = img.detach().cpu()
        super().forward_train(img, img_metas)
        return self.rpn_head.forward_train(self.extract_feat(img), img_metas, gt_bboxes, None,
                                           gt_bboxes_ignore)

    def simple_test(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                    rescale: bool = False) -> list[np.ndarray]:
        """Proposals and scores ``[n, 5]`` of each image."""
        proposals = self.rpn_head.simple_test_rpn(self.extract_feat(img), img_metas)
        if rescale:
            for boxes, meta in zip(proposals, img_metas):
                boxes[:, :4] /= boxes.new_tensor(meta["scale_factor"])
        return [boxes.cpu().numpy() for boxes in proposals]

    def aug_test(self, imgs: list[Tensor], img_metas: list[list[Meta]],  # type: ignore[override]
                 rescale: bool = False) -> list[np.ndarray]:
        """As :meth:`simple_test`, of images from several views."""
        proposals = self.rpn_head.aug_test_rpn(self.extract_feats(imgs), img_metas)
        if not rescale:
            for boxes, meta in zip(proposals, img_metas[0]):
                boxes[:, :4] = bbox_mapping(
                    boxes[:, :4], meta["img_shape"], meta["scale_factor"], meta["flip"],
                    meta.get("flip_direction") or "horizontal")
        return [boxes.cpu().numpy() for boxes in proposals]
