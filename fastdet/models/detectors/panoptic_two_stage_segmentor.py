"""Two-stage detectors that also segment stuff (Panoptic FPN, arXiv 1901.02446)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdet.core.bbox import bbox2roi
from fastdet.core.post_processing import multiclass_nms

from ..builder import DETECTORS, build_head
from ..roi_heads.mask_heads.paste import sampled_masks
from .base import Meta
from .two_stage import TwoStageDetector

__all__ = ["TwoStagePanopticSegmentor"]


@DETECTORS.register_module()
class TwoStagePanopticSegmentor(TwoStageDetector):
    """A TwoStageDetector with a head of pixels' classes, and one that joins both.

    Args:
        backbone: its config.
        neck: its config.
        rpn_head: its config.
        roi_head: its config.
        train_cfg: as of :class:`TwoStageDetector`.
        test_cfg: as of :class:`TwoStageDetector`, and ``panoptic``.
        pretrained: the old spelling of the backbone's ``init_cfg``.
        init_cfg: how weights are initialised.
        semantic_head: config of the head of pixels' classes.
        panoptic_fusion_head: config of what joins instances and stuff.
    """

    semantic_head: Any
    panoptic_fusion_head: Any

    def __init__(self, backbone: dict[str, Any], neck: dict[str, Any] | None = None,
                 rpn_head: dict[str, Any] | None = None, roi_head: dict[str, Any] | None = None,
                 train_cfg: Any = None, test_cfg: Any = None, pretrained: str | None = None,
                 init_cfg: Any = None, semantic_head: dict[str, Any] | None = None,
                 panoptic_fusion_head: dict[str, Any] | None = None) -> None:
        super().__init__(backbone, neck, rpn_head, roi_head, train_cfg, test_cfg, pretrained,
                         init_cfg)
        if semantic_head is not None:
            self.semantic_head = build_head(semantic_head)
        if panoptic_fusion_head is not None:
            fusion: Any = build_head({
                **panoptic_fusion_head,
                "test_cfg": None if test_cfg is None else test_cfg["panoptic"]})
            self.panoptic_fusion_head = fusion
            self.num_things_classes = fusion.num_things_classes
            self.num_stuff_classes = fusion.num_stuff_classes
            self.num_classes = fusion.num_classes

    @property
    def with_semantic_head(self) -> bool:
        """Whether pixels' classes are predicted."""
        return self._has("semantic_head")

    @property
    def with_panoptic_fusion_head(self) -> bool:
        """Whether instances and stuff are joined."""
        return self._has("panoptic_fusion_head")

    def forward_dummy(self, img: Tensor) -> tuple[Any, ...]:
        """The heads' raw outputs, to count operations."""
        return (*super().forward_dummy(img), self.semantic_head(self.extract_feat(img)))

    def forward_train(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                      gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                      gt_bboxes_ignore: list[Tensor] | None = None, gt_masks: Any = None,
                      gt_semantic_seg: Any = None, proposals: list[Tensor] | None = None,
                      **kwargs: Any) -> dict[str, Any]:
        """Losses of a batch.

        Args:
            img: [B, 3, H, W].
            img_metas: of each image.
            gt_bboxes: [G, 4] of each image, corners in pixels.
            gt_labels: [G] of each image.
            gt_bboxes_ignore: [g, 4] of each image.
            gt_masks: of each image.
            gt_semantic_seg: [B, 1, h, w], classes of pixels, things first.
            proposals: [n, 4] of each image, where none are made here.
            kwargs: for the heads.
        """
        super(TwoStageDetector, self).forward_train(img, img_metas)
        x = self.extract_feat(img)
        losses = self.losses_of(x, img_metas, gt_bboxes, gt_labels, gt_bboxes_ignore, gt_masks,
                                proposals, **kwargs)
        losses.update(self.semantic_head.forward_train(x, gt_semantic_seg))
        return losses

    def simple_test_mask(self, x: Any, img_metas: list[Meta], det_bboxes: list[Tensor],
                         det_labels: list[Tensor], rescale: bool = False) -> dict[str, Any]:
        """Masks of detections.

        Args:
            x: feature maps.
            img_metas: of each image.
            det_bboxes: [n, 5] of each image.
            det_labels: [n] of each image.
            rescale: boxes and masks are in the original image, not in the padded input.

        Returns:
            ``masks``, of each image [n, H, W], probabilities; ``mask_pred`` and ``mask_feats`` of
            the mask head.
        """
        shapes = [meta["ori_shape" if rescale else "pad_shape"][:2] for meta in img_metas]
        boxes = self.roi_head.test_boxes(det_bboxes, img_metas, rescale)
        found = self.roi_head._mask_forward(x, bbox2roi(boxes))
        each = found["mask_pred"].sigmoid().split([len(b) for b in boxes])
        masks = []
        for pred, box, label, (h, w) in zip(each, det_bboxes, det_labels, shapes):
            if pred.shape[1] > 1:
                pred = pred[torch.arange(len(pred), device=pred.device), label][:, None]
            masks.append(sampled_masks(pred, box[:, :4], h, w, False)[0])
        return {**found, "masks": masks}

    def simple_test(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                    proposals: list[Tensor] | None = None, rescale: bool = False) -> Any:
        """Of each image ``pan_results``, an int32 map; see ``HeuristicFusionHead``.

        Args:
            img: [B, 3, H, W].
            img_metas: of each image.
            proposals: of each image, where none are made here.
            rescale: in the original image.
        """
        x = self.extract_feat(img)
        if proposals is None:
            proposals = self.rpn_head.simple_test_rpn(x, img_metas)
        cfg = self.test_cfg["panoptic"]
        each = zip(*self.roi_head.simple_test_bboxes(x, img_metas, proposals, None,
                                                     rescale=rescale))
        found = [multiclass_nms(boxes, scores, cfg["score_thr"], cfg["nms"], cfg["max_per_img"])
                 for boxes, scores in each]
        boxes, labels = [f[0] for f in found], [f[1] for f in found]
        masks = self.simple_test_mask(x, img_metas, boxes, labels, rescale=rescale)["masks"]
        stuff = self.semantic_head.simple_test(x, img_metas, rescale)
        return [{"pan_results": self.panoptic_fusion_head.simple_test(*one).int().cpu().numpy()}
                for one in zip(boxes, labels, masks, stuff)]
