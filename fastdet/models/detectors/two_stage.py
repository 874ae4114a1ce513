"""Detectors that propose regions and look at each (Faster R-CNN, arXiv 1506.01497)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..builder import DETECTORS, build_backbone, build_head, build_neck
from ..dense_heads.candidates import Metas
from .base import BaseDetector, Meta
from .single_stage import with_pretrained

__all__ = ["TwoStageDetector"]


@DETECTORS.register_module()
class TwoStageDetector(BaseDetector):
    """A backbone, a neck, a proposal head and a head of regions.

    Args:
        backbone: its config.
        neck: its config.
        rpn_head: its config; without it proposals are given.
        roi_head: its config.
        train_cfg: ``rpn``, ``rpn_proposal`` and ``rcnn``.
        test_cfg: ``rpn`` and ``rcnn``.
        pretrained: the old spelling of the backbone's ``init_cfg``.
        init_cfg: how weights are initialised.
    """

    def __init__(self, backbone: dict[str, Any], neck: dict[str, Any] | None = None,
                 rpn_head: dict[str, Any] | None = None, roi_head: dict[str, Any] | None = None,
                 train_cfg: Any = None, test_cfg: Any = None, pretrained: str | None = None,
                 init_cfg: Any = None) -> None:
        super().__init__(init_cfg)
        self.backbone = build_backbone(with_pretrained(backbone, pretrained))
        if neck is not None:
            self.neck = build_neck(neck)
        if rpn_head is not None:
            self.rpn_head = build_head({
                **rpn_head, "train_cfg": None if train_cfg is None else train_cfg["rpn"],
                "test_cfg": test_cfg["rpn"]})
        if roi_head is not None:
            self.roi_head = build_head({
                **roi_head, "train_cfg": None if train_cfg is None else train_cfg["rcnn"],
                "test_cfg": test_cfg["rcnn"], "pretrained": pretrained})
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg

    @property
    def with_rpn(self) -> bool:
        """Whether proposals are made here."""
        return self._has("rpn_head")

    @property
    def with_roi_head(self) -> bool:
        """Whether there is a head of regions."""
        return self._has("roi_head")

    def extract_feat(self, img: Tensor) -> Any:
        """Feature maps of images [B, 3, H, W]."""
        x = self.backbone(img)
        return self.neck(x) if self.with_neck else x

    def forward_dummy(self, img: Tensor) -> tuple[Any, ...]:
        """The heads' raw outputs on a thousand random regions, to count operations."""
        x = self.extract_feat(img)
        outs = (self.rpn_head(x),) if self.with_rpn else ()
        return (*outs, self.roi_head.forward_dummy(x, torch.randn(1000, 4).to(img.device)))

    def forward_train(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                      gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                      gt_bboxes_ignore: list[Tensor] | None = None, gt_masks: Any = None,
                      proposals: list[Tensor] | None = None, **kwargs: Any) -> dict[str, Any]:
        """Losses of a batch.

        Args:
            img: [B, 3, H, W].
            img_metas: of each image.
            gt_bboxes: [G, 4] of each image, corners in pixels.
            gt_labels: [G] of each image.
            gt_bboxes_ignore: [g, 4] of each image.
            gt_masks: of each image, where masks are trained.
            proposals: [n, 4] of each image, where none are made here.
            kwargs: for the heads.
        """
        super().forward_train(img, img_metas)
        x = self.extract_feat(img)
        return self.losses_of(x, img_metas, gt_bboxes, gt_labels, gt_bboxes_ignore, gt_masks,
                              proposals, **kwargs)

    def losses_of(self, x: Any, img_metas: list[Meta], gt_bboxes: list[Tensor],
                  gt_labels: list[Tensor], gt_bboxes_ignore: list[Tensor] | None, gt_masks: Any,
                  proposals: Any, **kwargs: Any) -> dict[str, Any]:
        """Losses of both stages on feature maps; see :meth:`forward_train`."""
        losses: dict[str, Any] = {}
        if self.with_rpn:
            cfg = self.train_cfg.get("rpn_proposal", self.test_cfg["rpn"])
            rpn_losses, proposals = self.rpn_head.forward_train(
                x, img_metas, gt_bboxes, gt_labels=None, gt_bboxes_ignore=gt_bboxes_ignore,
                proposal_cfg=cfg, **kwargs)
            losses.update(rpn_losses)
        losses.update(self.roi_head.forward_train(
            x, img_metas, proposals, gt_bboxes, gt_labels, gt_bboxes_ignore, gt_masks, **kwargs))
        return losses

    def _need_bbox(self) -> None:
        if not self.with_bbox:
            raise TypeError(f"{type(self).__name__}: a detector without a box head has no "
                            "detections")

    def simple_test(self, img: Tensor, img_metas: list[Meta],  # type: ignore[override]
                    proposals: list[Tensor] | None = None, rescale: bool = False) -> Any:
        """Of each image its results: arrays ``[n, 5]`` for each class, and with masks a pair.

        Args:
            img: [B, 3, H, W].
            img_metas: of each image.
            proposals: of each image, where none are made here.
            rescale: in pixels of the original image.
        """
        self._need_bbox()
        x = self.extract_feat(img)
        if proposals is None:
            proposals = self.rpn_head.simple_test_rpn(x, img_metas)
        return self.roi_head.simple_test(x, proposals, img_metas, rescale=rescale)

    async def async_simple_test(self, img: Tensor, img_meta: list[Meta],  # type: ignore[override]
                                proposals: list[Tensor] | None = None,
                                rescale: bool = False) -> Any:
        """:meth:`simple_test` for callers in an event loop."""
        return self.simple_test(img, img_meta, proposals, rescale)

    def aug_test(self, imgs: list[Tensor], img_metas: list[list[Meta]],  # type: ignore[override]
                 rescale: bool = False) -> Any:
        """As :meth:`simple_test`, of one image from several views."""
        x = self.extract_feats(imgs)
        proposals = self.rpn_head.aug_test_rpn(x, img_metas)
        return self.roi_head.aug_test(x, proposals, img_metas, rescale=rescale)

    @torch.no_grad()
    def detect(self, img: Tensor, img_metas: Metas, rescale: bool = False,
               with_masks: bool = False) -> Any:
        """Padded detections of a batch, without a host sync: what compilers and exports take.

        Args:
            img: [B, 3, H, W].
            img_metas: of each image, or one that all share.
            rescale: in pixels of the original image.
            with_masks: return masks, too.

        Returns:
            Boxes and scores ``[B, K, 5]``, labels ``[B, K]`` and how many of the K count ``[B]``,
            see ``StandardRoIHead.detect``; and masks ``[B, K, h, w]``, see its ``detect_masks``.

        Raises:
            TypeError: proposals are not made here, or the head of regions finds boxes or masks in
                another way.
        """
        if not (self.with_rpn and hasattr(self.roi_head, "detect")):
            raise TypeError(f"{type(self).__name__} has no padded detections")
        x = self.extract_feat(img)
        proposals = self.rpn_head.proposals(self.rpn_head(x), img_metas, self.test_cfg["rpn"])
        found = self.roi_head.detect(x, proposals, img_metas, rescale=rescale)
        if not with_masks:
            return found
        return *found, self.roi_head.detect_masks(x, found, img_metas, rescale)
