"""A cascade whose training sees what its test sees (SCNet, arXiv 2012.10150)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from ..builder import HEADS, build_head, build_roi_extractor
from .base_roi_head import Meta
from .cascade_roi_head import CascadeRoIHead
from .htc_roi_head import resized

__all__ = ["SCNetRoIHead"]


@HEADS.register_module()
class SCNetRoIHead(CascadeRoIHead):
    """A cascade of boxes, then one head of masks on the last stage's regions.

    Args:
        num_stages: how many.
        stage_loss_weights: of each stage; that of the masks is their sum.
        semantic_roi_extractor: config of what pools regions of the semantic features.
        semantic_head: config of the head of pixels' classes.
        feat_relay_head: config of what brings the boxes' features to the masks.
        glbctx_head: config of the head of the image's classes.
        kwargs: of :class:`CascadeRoIHead`.

    Raises:
        ValueError: there is no head of masks.
    """

    semantic_head: Any
    semantic_roi_extractor: Any
    feat_relay_head: Any
    glbctx_head: Any

    def __init__(self, num_stages: int, stage_loss_weights: Sequence[float],
                 semantic_roi_extractor: Any = None, semantic_head: Any = None,
                 feat_relay_head: Any = None, glbctx_head: Any = None, **kwargs: Any) -> None:
        super().__init__(num_stages, stage_loss_weights, **kwargs)
        if not self.with_mask:
            raise ValueError("SCNetRoIHead needs a mask_head")
        if semantic_head is not None:
            self.semantic_roi_extractor = build_roi_extractor(semantic_roi_extractor)
            self.semantic_head = build_head(semantic_head)
        if feat_relay_head is not None:
            self.feat_relay_head = build_head(feat_relay_head)
        if glbctx_head is not None:
            self.glbctx_head = build_head(glbctx_head)

    def init_mask_head(self, mask_roi_extractor: Any, mask_head: Any) -> None:
        """Build what predicts masks."""
        if mask_roi_extractor is not None:
            self.mask_roi_extractor = build_roi_extractor(mask_roi_extractor)
        self.mask_head = build_head(mask_head)

    @property
    def with_semantic(self) -> bool:
        """Whether pixels' classes are predicted."""
        return self._has("semantic_head")

    @property
    def with_feat_relay(self) -> bool:
        """Whether the boxes' features are brought to the masks."""
        return self._has("feat_relay_head")

    @property
    def with_glbctx(self) -> bool:
        """Whether the image's classes are predicted."""
        return self._has("glbctx_head")

    def context(self, x: Sequence[Tensor]) -> dict[str, Any]:
        """The semantic features, and those of the whole image."""
        return {**({"semantic_feat": self.semantic_head(x)[1]} if self.with_semantic else {}),
                **({"glbctx_feat": self.glbctx_head(x)[1]} if self.with_glbctx else {})}

    def _fused(self, feats: Tensor, rois: Tensor, semantic_feat: Tensor | None = None,
               glbctx_feat: Tensor | None = None) -> Tensor:
        """Pooled regions plus the semantic features there and those of their image."""
        if semantic_feat is not None:
            feats = feats + resized(self.semantic_roi_extractor([semantic_feat], rois), feats)
        return feats if glbctx_feat is None else feats + glbctx_feat[rois[:, 0].long()]

    def _bbox_forward(self, stage: int, x: Sequence[Tensor], rois: Tensor,
                      **context: Any) -> dict[str, Any]:
        feats = self._fused(self._bbox_feats(stage, x, rois), rois, **context)
        cls_score, bbox_pred, relayed = self.bbox_head[stage](feats, return_shared_feat=True)
        return {"cls_score": cls_score, "bbox_pred": bbox_pred, "bbox_feats": feats,
                "relayed_feat": relayed}

    def _masks(self, x: Sequence[Tensor], rois: Tensor, relayed: Tensor,
               context: dict[str, Any]) -> Tensor:
        """Mask logits [n, C, H, W] of regions [n, 5] and the boxes' features [n, D]."""
        extractor = self.mask_roi_extractor
        feats = self._fused(extractor(x[:extractor.num_inputs], rois), rois, **context)
        more = self.feat_relay_head(relayed) if self.with_feat_relay else None
        return self.mask_head(feats if more is None else feats + more)

    def mask_stages(self, x: Sequence[Tensor], rois: Tensor, **context: Any) -> list[Tensor]:
        """Mask logits [n, C, H, W] of the one head."""
        relayed = self._bbox_forward(-1, x, rois, **context)["relayed_feat"]
        return [self._masks(x, rois, relayed, context)]

    def merged(self, stages: Sequence[Tensor], meta: Meta) -> Any:
        """The logits of an image, of which there is nothing to merge."""
        return stages[0]

    def stage_losses(self, x: Sequence[Tensor], img_metas: list[Meta], proposal_list: Any,
                     gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                     gt_bboxes_ignore: list[Tensor] | None, gt_masks: Any,
                     **context: Any) -> dict[str, Any]:
        """Losses of every stage's boxes and of the masks on the last stage's regions."""
        losses: dict[str, Any] = {}
        for i in range(self.num_stages):
            samples, found = self.stage(i, losses, x, proposal_list, gt_bboxes, gt_labels,
                                        gt_bboxes_ignore, context)
            if i < self.num_stages - 1:
                proposal_list = self.refined(i, found, samples, img_metas)
        pos = samples.pos_rows
        pred = self._masks(x, samples.rois[pos], found["relayed_feat"][pos], context)
        targets = self.mask_head.get_targets(samples, gt_masks, self.train_cfg[-1])
        loss = self.mask_head.loss(pred, targets, samples.gt_labels.flatten()[pos])
        losses["loss_mask"] = sum(self.stage_loss_weights) * loss["loss_mask"]
        return losses

    def forward_train(self, x: Sequence[Tensor], img_metas: list[Meta],  # type: ignore[override]
                      proposal_list: Any, gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                      gt_bboxes_ignore: list[Tensor] | None = None, gt_masks: Any = None,
                      gt_semantic_seg: Tensor | None = None, **kwargs: Any) -> dict[str, Any]:
        """Losses; ``loss_semantic_seg`` is of pixels' classes [B, 1, h, w], ``loss_glbctx`` of
        the image's classes."""
        losses, context = {}, {}
        if self.with_semantic:
            pred, context["semantic_feat"] = self.semantic_head(x)
            losses["loss_semantic_seg"] = self.semantic_head.loss(pred, gt_semantic_seg)
        if self.with_glbctx:
            pred, context["glbctx_feat"] = self.glbctx_head(x)
            losses["loss_glbctx"] = self.glbctx_head.loss(pred, gt_labels)
        return {**losses, **self.stage_losses(x, img_metas, proposal_list, gt_bboxes, gt_labels,
                                              gt_bboxes_ignore, gt_masks, **context)}
