"""Boxes and masks in turn, stage by stage (HTC, arXiv 1901.07518)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..builder import HEADS, build_head, build_roi_extractor
from ..utils.brick_wrappers import adaptive_avg_pool2d
from .base_roi_head import Meta
from .cascade_roi_head import CascadeRoIHead

__all__ = ["HybridTaskCascadeRoIHead"]


def resized(feats: Tensor, like: Tensor) -> Tensor:
    """Regions averaged to the size of other ones, if they differ."""
    h, w = like.shape[-2:]
    return feats if feats.shape[-2:] == (h, w) else adaptive_avg_pool2d(feats, (h, w))


@HEADS.register_module()
class HybridTaskCascadeRoIHead(CascadeRoIHead):
    """A cascade whose masks learn from refined boxes and earlier masks, and from pixels' classes.

    Args:
        num_stages: how many.
        stage_loss_weights: of each stage.
        semantic_roi_extractor: config of what pools regions of the semantic features.
        semantic_head: config of the head of pixels' classes.
        semantic_fusion: ``'bbox'`` and ``'mask'``: what gets semantic features.
        interleaved: masks are trained on the regions that the stage's boxes refined.
        mask_info_flow: a stage's masks start from the features of those before it.
        kwargs: of :class:`CascadeRoIHead`.

    Raises:
        ValueError: there is no head of boxes or of masks.
    """

    semantic_head: Any
    semantic_roi_extractor: Any

    def __init__(self, num_stages: int, stage_loss_weights: Sequence[float],
                 semantic_roi_extractor: Any = None, semantic_head: Any = None,
                 semantic_fusion: Sequence[str] = ("bbox", "mask"), interleaved: bool = True,
                 mask_info_flow: bool = True, **kwargs: Any) -> None:
        super().__init__(num_stages, stage_loss_weights, **kwargs)
        if not self.with_mask:
            raise ValueError("HybridTaskCascadeRoIHead needs a mask_head")
        if semantic_head is not None:
            self.semantic_roi_extractor = build_roi_extractor(semantic_roi_extractor)
            self.semantic_head = build_head(semantic_head)
        self.semantic_fusion = semantic_fusion
        self.interleaved = interleaved
        self.mask_info_flow = mask_info_flow

    @property
    def with_semantic(self) -> bool:
        """Whether pixels' classes are predicted."""
        return self._has("semantic_head")

    def context(self, x: Sequence[Tensor]) -> dict[str, Any]:
        """The semantic features."""
        return {"semantic_feat": self.semantic_head(x)[1]} if self.with_semantic else {}

    def _fused(self, branch: str, feats: Tensor, rois: Tensor,
               semantic_feat: Tensor | None) -> Tensor:
        """Pooled regions plus the semantic features there."""
        if semantic_feat is None or branch not in self.semantic_fusion:
            return feats
        return feats + resized(self.semantic_roi_extractor([semantic_feat], rois), feats)

    def _bbox_feats(self, stage: int, x: Sequence[Tensor], rois: Tensor,
                    semantic_feat: Tensor | None = None, **context: Any) -> Tensor:
        return self._fused("bbox", super()._bbox_feats(stage, x, rois), rois, semantic_feat)

    def _mask_feats(self, stage: int, x: Sequence[Tensor], rois: Tensor,
                    semantic_feat: Tensor | None = None, **context: Any) -> Tensor:
        return self._fused("mask", super()._mask_feats(stage, x, rois), rois, semantic_feat)

    def _mask_forward(self, stage: int, x: Sequence[Tensor], rois: Tensor,
                      **context: Any) -> dict[str, Any]:
        feats, last = self._mask_feats(stage, x, rois, **context), None
        if self.mask_info_flow:
            for head in self.mask_head[:stage]:
                last = head(feats, last, return_logits=False)
        pred = self.mask_head[stage](feats, last, return_feat=False)
        return {"mask_pred": pred, "mask_feats": feats}

    def mask_stages(self, x: Sequence[Tensor], rois: Tensor, **context: Any) -> list[Tensor]:
        """Mask logits [n, C, H, W] of each stage; all pool with the last stage's extractor."""
        feats, last, stages = self._mask_feats(-1, x, rois, **context), None, []
        for head in self.mask_head:
            pred, feat = head(feats, last)
            last = feat if self.mask_info_flow else None
            stages.append(pred)
        return stages

    def forward_train(self, x: Sequence[Tensor], img_metas: list[Meta],  # type: ignore[override]
                      proposal_list: Any, gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                      gt_bboxes_ignore: list[Tensor] | None = None, gt_masks: Any = None,
                      gt_semantic_seg: Tensor | None = None, **kwargs: Any) -> dict[str, Any]:
        """Losses of every stage, and ``loss_semantic_seg`` of classes of pixels [B, 1, h, w]."""
        losses, context = {}, {}
        if self.with_semantic:
            pred, context["semantic_feat"] = self.semantic_head(x)
            losses["loss_semantic_seg"] = self.semantic_head.loss(pred, gt_semantic_seg)
        return {**losses, **self.stage_losses(x, img_metas, proposal_list, gt_bboxes, gt_labels,
                                              gt_bboxes_ignore, gt_masks, **context)}
