"""YOLACT (arXiv 1904.02689)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdet.core.bbox import bbox2result

from ..builder import DETECTORS, build_head
from .base import BaseDetector, Meta
from .single_stage import SingleStageDetector

__all__ = ["YOLACT"]


@DETECTORS.register_module()
class YOLACT(SingleStageDetector):
    """Boxes with coefficients, prototypes of masks, and a segmentation to help training.

    Args:
        backbone: its config.
        neck: its config.
        bbox_head: its config.
        segm_head: config of the semantic segmentation.
        mask_head: config of the prototypes.
        train_cfg: settings of training, for the ``bbox_head``.
        test_cfg: settings of the test, for the ``bbox_head``.
        pretrained: the old spelling of the backbone's ``init_cfg``.
        init_cfg: how weights are initialised.
    """

    segm_head: Any

    def __init__(self, backbone: dict[str, Any], neck: dict[str, Any], bbox_head: dict[str, Any],
                 segm_head: dict[str, Any], mask_head: dict[str, Any], train_cfg: Any = None,
                 test_cfg: Any = None, pretrained: str | None = None,
                 init_cfg: Any = None) -> None:
        super().__init__(backbone, neck, bbox_head, train_cfg, test_cfg, pretrained, init_cfg)
        self.segm_head = build_head(segm_head)
        self.mask_head = build_head(mask_head)

    def forward_dummy(self, img: Tensor) -> Any:
        """The heads' raw outputs, to count operations."""
        x = self.extract_feat(img)
        return self.bbox_head(x), self.mask_head.forward_dummy(x[0])

    def forward_train(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                      gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                      gt_bboxes_ignore: list[Tensor] | None = None,
                      gt_masks: Any = None) -> dict[str, Any]:
        """Losses of a batch.

        Args:
            img: [B, 3, H, W].
            img_metas: of each image.
            gt_bboxes: [G, 4] of each image, corners in pixels.
            gt_labels: [G] of each image.
            gt_bboxes_ignore: [g, 4] of each image.
            gt_masks: of each image.
        """
        BaseDetector.forward_train(self, img, img_metas)
        masks = [m.to_tensor(dtype=torch.uint8, device=img.device) for m in gt_masks]
        x = self.extract_feat(img)
        scores, boxes, coeffs = self.bbox_head(x)
        losses, found = self.bbox_head.loss(scores, boxes, gt_bboxes, gt_labels, img_metas,
                                            gt_bboxes_ignore=gt_bboxes_ignore)
        losses.update(self.segm_head.loss(self.segm_head(x[0]), masks, gt_labels))
        pred = self.mask_head(x[0], coeffs, gt_bboxes, img_metas, found)
        losses.update(self.mask_head.loss(pred, masks, gt_bboxes, img_metas, found))
        return losses

    def simple_test(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                    rescale: bool = False) -> list[Any]:
        """Of each image, for each class, arrays ``[n, 5]`` and masks.

        Args:
            img: [B, 3, H, W].
            img_metas: of each image.
            rescale: in pixels of the original image.
        """
        x = self.extract_feat(img)
        boxes, labels, coeffs = self.bbox_head.simple_test(x, img_metas, rescale=rescale)
        masks = self.mask_head.simple_test(x, boxes, labels, coeffs, img_metas, rescale=rescale)
        return list(zip([bbox2result(b, c, self.bbox_head.num_classes)
                         for b, c in zip(boxes, labels)], masks))

    def aug_test(self, imgs: Any, img_metas: Any,  # type: ignore[override]
                 rescale: bool = False) -> Any:
        """Not defined.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{type(self).__name__} has no test-time augmentation")
