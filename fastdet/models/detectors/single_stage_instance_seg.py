"""Detectors of a backbone, a neck and a head of masks."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from fastdet.core.bbox import bbox2result

from ..builder import DETECTORS, build_backbone, build_head, build_neck
from .base import BaseDetector, Meta
from .single_stage import with_pretrained

__all__ = ["SingleStageInstanceSegmentor"]


@DETECTORS.register_module()
class SingleStageInstanceSegmentor(BaseDetector):
    """Predicts masks right from the feature maps.

    Args:
        backbone: its config.
        neck: its config.
        bbox_head: must be ``None``.
        mask_head: its config.
        train_cfg: settings of training, for the head.
        test_cfg: settings of the test, for the head.
        pretrained: the old spelling of the backbone's ``init_cfg``.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: there is a ``bbox_head``, or no ``mask_head``.
    """

    def __init__(self, backbone: dict[str, Any], neck: dict[str, Any] | None = None,
                 bbox_head: dict[str, Any] | None = None,
                 mask_head: dict[str, Any] | None = None, train_cfg: Any = None,
                 test_cfg: Any = None, pretrained: str | None = None,
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        if bbox_head is not None:
            raise ValueError(f"{type(self).__name__}: none of the heads tells a mask head which "
                             "boxes are positive; bbox_head must be None")
        if mask_head is None:
            raise ValueError(f"{type(self).__name__}: mask_head must be a config, got None")
        self.backbone = build_backbone(with_pretrained(backbone, pretrained))
        if neck is not None:
            self.neck = build_neck(neck)
        self.bbox_head = None
        self.mask_head = build_head({**mask_head, "train_cfg": train_cfg, "test_cfg": test_cfg})
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg

    def extract_feat(self, img: Tensor) -> Any:
        """Feature maps of images [B, 3, H, W]."""
        x = self.backbone(img)
        return self.neck(x) if self.with_neck else x

    def forward_dummy(self, img: Tensor) -> Any:
        """The head's raw outputs, to count operations."""
        return self.mask_head(self.extract_feat(img))

    def forward_train(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                      gt_masks: list[Any], gt_labels: list[Tensor],
                      gt_bboxes: list[Tensor] | None = None,
                      gt_bboxes_ignore: list[Tensor] | None = None,
                      **kwargs: Any) -> dict[str, Any]:
        """Losses of a batch.

        Args:
            img: [B, 3, H, W].
            img_metas: of each image.
            gt_masks: of each image.
            gt_labels: [G] of each image.
            gt_bboxes: [G, 4] of each image, corners in pixels.
            gt_bboxes_ignore: [g, 4] of each image.
            kwargs: for the head.
        """
        super().forward_train(img, img_metas)
        return self.mask_head.forward_train(
            self.extract_feat(img), gt_labels, gt_masks, img_metas, gt_bboxes=gt_bboxes,
            gt_bboxes_ignore=gt_bboxes_ignore, **kwargs)

    def simple_test(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                    rescale: bool = False) -> list[Any]:
        """Of each image, for each class, arrays ``[n, 5]`` whose boxes are zeros, and masks.

        Args:
            img: [B, 3, H, W].
            img_metas: of each image.
            rescale: not used; masks are always of the original image.
        """
        found = self.mask_head.simple_test(self.extract_feat(img), img_metas, rescale=rescale)
        return [self.format_results(*instances) for instances in found]

    def format_results(self, scores: Tensor, labels: Tensor, masks: Tensor) -> tuple[Any, Any]:
        """Scores [n], labels [n] and masks [n, H, W] as boxes and masks for each class."""
        classes = self.mask_head.num_classes
        boxes = scores.new_zeros((len(scores), 5))
        boxes[:, 4] = scores
        each: list[list[np.ndarray]] = [[] for _ in range(classes)]
        for label, mask in zip(labels.tolist(), masks.cpu().numpy()):
            each[label].append(mask)
        return bbox2result(boxes, labels, classes), each

    def aug_test(self, imgs: Any, img_metas: Any,  # type: ignore[override]
                 rescale: bool = False) -> Any:
        """Not defined.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{type(self).__name__} has no test-time augmentation")
