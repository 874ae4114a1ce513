"""MaskFormer (arXiv 2107.06278)."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from fastdet.core.bbox import bbox2result

from ..builder import DETECTORS, build_backbone, build_head, build_neck
from .base import BaseDetector, Meta
from .single_stage import SingleStageDetector

__all__ = ["MaskFormer"]


@DETECTORS.register_module()
class MaskFormer(SingleStageDetector):
    """Panoptic or instance segmentation by labelled masks.

    Args:
        backbone: its config.
        neck: its config.
        panoptic_head: config of what predicts masks.
        panoptic_fusion_head: config of what makes results of them.
        train_cfg: settings of training, for the head.
        test_cfg: settings of the test, for both.
        init_cfg: how weights are initialised.
    """

    panoptic_head: Any
    panoptic_fusion_head: Any

    def __init__(self, backbone: dict[str, Any], neck: dict[str, Any] | None = None,
                 panoptic_head: dict[str, Any] | None = None,
                 panoptic_fusion_head: dict[str, Any] | None = None, train_cfg: Any = None,
                 test_cfg: Any = None, init_cfg: Any = None) -> None:
        BaseDetector.__init__(self, init_cfg)
        if panoptic_head is None or panoptic_fusion_head is None:
            raise TypeError(f"{type(self).__name__}: panoptic_head and panoptic_fusion_head must "
                            "be configs")
        self.backbone = build_backbone(backbone)
        if neck is not None:
            self.neck = build_neck(neck)
        self.panoptic_head = build_head({**panoptic_head, "train_cfg": train_cfg,
                                         "test_cfg": test_cfg})
        self.panoptic_fusion_head = build_head({**panoptic_fusion_head, "test_cfg": test_cfg})
        self.num_things_classes = self.panoptic_head.num_things_classes
        self.num_stuff_classes = self.panoptic_head.num_stuff_classes
        self.num_classes = self.panoptic_head.num_classes
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg

    def forward_dummy(self, img: Tensor, img_metas: list[Meta]) -> Any:  # type: ignore[override]
        """The head's raw outputs, to count operations."""
        BaseDetector.forward_train(self, img, img_metas)
        return self.panoptic_head(self.extract_feat(img), img_metas)

    def forward_train(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                      gt_bboxes: list[Tensor], gt_labels: list[Tensor], gt_masks: list[Any],
                      gt_semantic_seg: Any = None,
                      gt_bboxes_ignore: list[Tensor] | None = None,
                      **kwargs: Any) -> dict[str, Any]:
        """Losses of a batch.

        Args:
            img: [B, 3, H, W].
            img_metas: of each image.
            gt_bboxes: not used.
            gt_labels: [G] of each image, of things.
            gt_masks: ``BitmapMasks`` of each image.
            gt_semantic_seg: [B, 1, H, W], where there is stuff.
            gt_bboxes_ignore: must be ``None``.
            kwargs: not used.
        """
        BaseDetector.forward_train(self, img, img_metas)
        return self.panoptic_head.forward_train(
            self.extract_feat(img), img_metas, gt_bboxes, gt_labels, gt_masks, gt_semantic_seg,
            gt_bboxes_ignore)

    def simple_test(self, imgs: Tensor, img_metas: list[Meta],  # type: ignore[override]
                    **kwargs: Any) -> list[Any]:
        """Of each image ``pan_results``, an int32 map, and ``ins_results``, a pair of arrays
        ``[n, 5]`` and lists of masks for each class; without stuff that pair alone.

        Args:
            imgs: [B, 3, H, W].
            img_metas: of each image.
            kwargs: ``rescale``: in the original image.
        """
        logits = self.panoptic_head.simple_test(self.extract_feat(imgs), img_metas, **kwargs)
        results = self.panoptic_fusion_head.simple_test(*logits, img_metas, **kwargs)
        for result in results:
            if "pan_results" in result:
                result["pan_results"] = result["pan_results"].detach().cpu().numpy()
            if "ins_results" in result:
                labels, boxes, masks = result["ins_results"]
                each: list[list[np.ndarray]] = [[] for _ in range(self.num_things_classes)]
                for label, mask in zip(labels.tolist(), masks.detach().cpu().numpy()):
                    each[label].append(mask)
                result["ins_results"] = (
                    bbox2result(boxes, labels, self.num_things_classes), each)
        if self.num_stuff_classes == 0:
            return [result["ins_results"] for result in results]
        return results

    def aug_test(self, imgs: Any, img_metas: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Not defined.

        Raises:
            TypeError: always.
        """
        raise TypeError(f"{type(self).__name__} has no test-time augmentation")
