"""Detectors of a backbone, a neck and one head."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from fastdet.core.bbox import bbox2result

from ..builder import DETECTORS, build_backbone, build_head, build_neck
from ..dense_heads.candidates import Metas
from .base import BaseDetector, Meta

__all__ = ["SingleStageDetector", "with_pretrained"]


def with_pretrained(backbone: dict[str, Any], pretrained: str | None) -> dict[str, Any]:
    """The backbone's config with ``pretrained``, the old spelling of its ``init_cfg``."""
    if not pretrained:
        return backbone
    warnings.warn('"pretrained" of a detector is deprecated; give the backbone '
                  "init_cfg=dict(type='Pretrained', checkpoint=...)", stacklevel=3)
    return {**backbone, "pretrained": pretrained}


@DETECTORS.register_module()
class SingleStageDetector(BaseDetector):
    """Predicts boxes right from the feature maps.

    Args:
        backbone: its config.
        neck: its config.
        bbox_head: its config.
        train_cfg: settings of training, for the head.
        test_cfg: settings of the test, for the head.
        pretrained: the old spelling of the backbone's ``init_cfg``.
        init_cfg: how weights are initialised.
    """

    def __init__(self, backbone: dict[str, Any], neck: dict[str, Any] | None = None,
                 bbox_head: dict[str, Any] | None = None, train_cfg: Any = None,
                 test_cfg: Any = None, pretrained: str | None = None,
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.backbone = build_backbone(with_pretrained(backbone, pretrained))
        if neck is not None:
            self.neck = build_neck(neck)
        if bbox_head is None:
            raise TypeError(f"{type(self).__name__}: bbox_head must be a config, got None")
        self.bbox_head = build_head({**bbox_head, "train_cfg": train_cfg, "test_cfg": test_cfg})
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg

    def extract_feat(self, img: Tensor) -> Any:
        """Feature maps of images [B, 3, H, W]."""
        x = self.backbone(img)
        return self.neck(x) if self.with_neck else x

    def forward_dummy(self, img: Tensor) -> Any:
        """The head's raw outputs, to count operations."""
        return self.bbox_head(self.extract_feat(img))

    def forward_train(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                      gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                      gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Any]:
        """Losses of a batch.

        Args:
            img: [B, 3, H, W].
            img_metas: of each image.
            gt_bboxes: [G, 4] of each image, corners in pixels.
            gt_labels: [G] of each image.
            gt_bboxes_ignore: [g, 4] of each image.
        """
        super().forward_train(img, img_metas)
        return self.bbox_head.forward_train(self.extract_feat(img), img_metas, gt_bboxes,
                                            gt_labels, gt_bboxes_ignore)

    def simple_test(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                    rescale: bool = False) -> list[Any]:
        """Of each image and class, boxes and scores ``[n, 5]``.

        Args:
            img: [B, 3, H, W].
            img_metas: of each image.
            rescale: in pixels of the original image.
        """
        found = self.bbox_head.simple_test(self.extract_feat(img), img_metas, rescale=rescale)
        return [bbox2result(boxes, labels, self.bbox_head.num_classes) for boxes, labels in found]

    def aug_test(self, imgs: list[Tensor], img_metas: list[list[Meta]],  # type: ignore[override]
                 rescale: bool = False) -> list[Any]:
        """As :meth:`simple_test`, of one image from several views.

        Raises:
            TypeError: the head cannot.
        """
        if not hasattr(self.bbox_head, "aug_test"):
            raise TypeError(f"{type(self.bbox_head).__name__} has no test-time augmentation")
        found = self.bbox_head.aug_test(self.extract_feats(imgs), img_metas, rescale=rescale)
        return [bbox2result(boxes, labels, self.bbox_head.num_classes) for boxes, labels in found]

    @torch.no_grad()
    def detect(self, img: Tensor, img_metas: Metas, rescale: bool = False) -> Any:
        """Padded detections of a batch, without a host sync: what compilers and exports take.

        Args:
            img: [B, 3, H, W].
            img_metas: of each image, or one that all share.
            rescale: in pixels of the original image.

        Returns:
            Boxes and scores ``[B, K, 5]``, labels ``[B, K]`` and how many of the K count ``[B]``.
        """
        return self.bbox_head.detect(self.bbox_head(self.extract_feat(img)), img_metas,
                                     rescale=rescale)
