"""Stages of boxes, each on what the last one refined (Cascade R-CNN, arXiv 1712.00726)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastdet.core.bbox import (
    Proposals,
    Samples,
    bbox2result,
    bbox2roi,
    build_assigner,
    build_sampler,
)
from fastdet.core.post_processing import merge_aug_bboxes, merge_aug_masks, multiclass_nms

from ..builder import HEADS, build_head, build_roi_extractor
from .base_roi_head import BaseRoIHead, Meta
from .standard_roi_head import of_view

__all__ = ["CascadeRoIHead"]


def _of_stages(cfg: Any, num_stages: int, what: str) -> list[Any]:
    """One config for each stage.

    Raises:
        ValueError: there are as many configs as there are not stages.
    """
    if not isinstance(cfg, list):
        return [cfg] * num_stages
    if len(cfg) != num_stages:
        raise ValueError(f"CascadeRoIHead: {num_stages} stages and {len(cfg)} configs of {what}")
    return cfg


@HEADS.register_module()
class CascadeRoIHead(BaseRoIHead):
    """Several stages of boxes and masks, with higher and higher overlaps.

    Args:
        num_stages: how many.
        stage_loss_weights: of each stage.
        bbox_roi_extractor: config of what pools regions for boxes, or of each stage.
        bbox_head: config of the head of boxes, or of each stage.
        mask_roi_extractor: config of what pools regions for masks, or of each stage.
        mask_head: config of the head of masks, or of each stage.
        shared_head: must be ``None``.
        train_cfg: of each stage.
        test_cfg: as of :class:`BaseRoIHead`.
        pretrained: not used.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: a shared head is given.
    """

    def __init__(self, num_stages: int, stage_loss_weights: Sequence[float],
                 bbox_roi_extractor: Any = None, bbox_head: Any = None,
                 mask_roi_extractor: Any = None, mask_head: Any = None, shared_head: Any = None,
                 train_cfg: Any = None, test_cfg: Any = None, pretrained: str | None = None,
                 init_cfg: Any = None) -> None:
        if bbox_roi_extractor is None or bbox_head is None:
            raise ValueError(f"{type(self).__name__}: bbox_roi_extractor and bbox_head must be "
                             "given")
        if shared_head is not None:
            raise ValueError(f"{type(self).__name__} has no shared head, got {shared_head!r}")
        self.num_stages = num_stages
        self.stage_loss_weights = stage_loss_weights
        super().__init__(bbox_roi_extractor=bbox_roi_extractor, bbox_head=bbox_head,
                         mask_roi_extractor=mask_roi_extractor, mask_head=mask_head,
                         shared_head=shared_head, train_cfg=train_cfg, test_cfg=test_cfg,
                         pretrained=pretrained, init_cfg=init_cfg)

    def init_bbox_head(self, bbox_roi_extractor: Any, bbox_head: Any) -> None:
        """Build what predicts boxes, of each stage."""
        extractors = _of_stages(bbox_roi_extractor, self.num_stages, "bbox_roi_extractor")
        heads = _of_stages(bbox_head, self.num_stages, "bbox_head")
        self.bbox_roi_extractor = nn.ModuleList([build_roi_extractor(c) for c in extractors])
        self.bbox_head = nn.ModuleList([build_head(c) for c in heads])

    def init_mask_head(self, mask_roi_extractor: Any, mask_head: Any) -> None:
        """Build what predicts masks, of each stage."""
        heads = _of_stages(mask_head, self.num_stages, "mask_head")
        self.mask_head = nn.ModuleList([build_head(c) for c in heads])
        self.share_roi_extractor = mask_roi_extractor is None
        if self.share_roi_extractor:
            self.mask_roi_extractor = self.bbox_roi_extractor
        else:
            extractors = _of_stages(mask_roi_extractor, self.num_stages, "mask_roi_extractor")
            self.mask_roi_extractor = nn.ModuleList([build_roi_extractor(c) for c in extractors])

    def init_assigner_sampler(self) -> None:
        """Build what chooses regions to train on, of each stage."""
        self.bbox_assigner: list[Any] = []
        self.bbox_sampler: list[Any] = []
        for i, cfg in enumerate(self.train_cfg or []):
            self.current_stage = i  # some samplers ask for it when they are built
            self.bbox_assigner.append(build_assigner(cfg["assigner"]))
            self.bbox_sampler.append(build_sampler(cfg["sampler"], context=self))

    @property
    def last_mask_head(self) -> Any:
        """The head that makes masks of the image of logits."""
        return self.mask_head[-1] if isinstance(self.mask_head, nn.ModuleList) else self.mask_head

    #: Masks are trained on the regions that the stage's own boxes refined.
    interleaved = False

    def context(self, x: Sequence[Tensor]) -> dict[str, Any]:
        """What the stages see beside the feature maps ``x``."""
        return {}

    def forward_dummy(self, x: Sequence[Tensor], proposals: Tensor) -> tuple[Tensor, ...]:
        """Raw outputs of every stage on ``proposals`` [n, 4], to count operations."""
        outs: tuple[Tensor, ...] = ()
        rois, context = bbox2roi([proposals]), self.context(x)
        for i in range(self.num_stages):
            found = self._bbox_forward(i, x, rois, **context)
            outs += (found["cls_score"], found["bbox_pred"])
        return (*outs, *self.mask_stages(x, rois[:100], **context)) if self.with_mask else outs

    # --- training ---------------------------------------------------------------------------
    def _bbox_feats(self, stage: int, x: Sequence[Tensor], rois: Tensor,
                    **context: Any) -> Tensor:
        extractor = self.bbox_roi_extractor[stage]
        return extractor(x[:extractor.num_inputs], rois)

    def _mask_feats(self, stage: int, x: Sequence[Tensor], rois: Tensor,
                    **context: Any) -> Tensor:
        extractor = self.mask_roi_extractor[stage]
        return extractor(x[:extractor.num_inputs], rois)

    def _bbox_forward(self, stage: int, x: Sequence[Tensor], rois: Tensor,
                      **context: Any) -> dict[str, Any]:
        feats = self._bbox_feats(stage, x, rois, **context)
        cls_score, bbox_pred = self.bbox_head[stage](feats)
        return {"cls_score": cls_score, "bbox_pred": bbox_pred, "bbox_feats": feats}

    def _bbox_forward_train(self, stage: int, x: Sequence[Tensor], samples: Samples,
                            gt_bboxes: Any, gt_labels: Any, rcnn_train_cfg: Any,
                            **context: Any) -> dict[str, Any]:
        rois = samples.rois
        found = self._bbox_forward(stage, x, rois, **context)
        targets = self.bbox_head[stage].get_targets(samples, gt_bboxes, gt_labels,
                                                    rcnn_train_cfg)
        loss = self.bbox_head[stage].loss(found["cls_score"], found["bbox_pred"], rois, *targets,
                                          num_rois=samples.valid.sum())
        return {**found, "loss_bbox": loss, "rois": rois, "bbox_targets": targets}

    def _mask_forward(self, stage: int, x: Sequence[Tensor], rois: Tensor,
                      **context: Any) -> dict[str, Any]:
        feats = self._mask_feats(stage, x, rois, **context)
        return {"mask_pred": self.mask_head[stage](feats), "mask_feats": feats}

    def _mask_forward_train(self, stage: int, x: Sequence[Tensor], samples: Samples,
                            gt_masks: Any, rcnn_train_cfg: Any,
                            **context: Any) -> dict[str, Any]:
        pos = samples.pos_rows
        found = self._mask_forward(stage, x, samples.rois[pos], **context)
        targets = self.mask_head[stage].get_targets(samples, gt_masks, rcnn_train_cfg)
        loss = self.mask_head[stage].loss(found["mask_pred"], targets,
                                          samples.gt_labels.flatten()[pos])
        return {**found, "loss_mask": loss}

    def add_losses(self, losses: dict[str, Any], stage: int, more: dict[str, Any]) -> None:
        """Put a stage's losses, weighed, among the others, as ``s0.loss_cls`` …"""
        weight = self.stage_loss_weights[stage]
        losses.update({f"s{stage}.{name}": value * weight if "loss" in name else value
                       for name, value in more.items()})

    @torch.no_grad()
    def refined(self, stage: int, found: dict[str, Any], samples: Samples,
                img_metas: list[Meta]) -> Proposals:
        """The regions of a stage moved by its predictions, without the gts among them.

        A region learns the box of its gt's class; background takes that of its highest score.
        """
        head = self.bbox_head[stage]
        score, labels = found["cls_score"], found["bbox_targets"][0]
        if head.custom_activation:
            score = head.loss_cls.get_activation(score)
        labels = torch.where(labels == head.num_classes, score[:, :-1].argmax(1), labels)
        b, s = samples.valid.shape
        shapes = [{"img_shape": meta["img_shape"]} for meta in img_metas]
        rois = found["rois"].view(b, s, 5)
        pred, labels = self.split(stage, found["bbox_pred"], [s] * b), labels.view(b, s)
        boxes = torch.stack([head.regress_by_class(rois[i, :, 1:], labels[i], pred[i], shapes[i])
                             for i in range(b)])
        keep = samples.valid & ~samples.is_gt
        order = keep.logical_not().int().argsort(dim=1, stable=True)
        return Proposals(boxes.gather(1, order[..., None].expand(-1, -1, 4)), keep.sum(1))

    def stage(self, stage: int, losses: dict[str, Any], x: Sequence[Tensor], proposal_list: Any,
              gt_bboxes: list[Tensor], gt_labels: list[Tensor],
              gt_bboxes_ignore: list[Tensor] | None,
              context: dict[str, Any]) -> tuple[Samples, dict[str, Any]]:
        """The regions that train a stage and its predictions; its boxes' ``losses`` are added."""
        self.current_stage = stage
        samples = self.samples(self.bbox_assigner[stage], self.bbox_sampler[stage], x,
                               proposal_list, gt_bboxes, gt_labels, gt_bboxes_ignore)
        found = self._bbox_forward_train(stage, x, samples, gt_bboxes, gt_labels,
                                         self.train_cfg[stage], **context)
        self.add_losses(losses, stage, found["loss_bbox"])
        return samples, found

    def forward_train(self, x: Sequence[Tensor], img_metas: list[Meta],  # type: ignore[override]
                      proposal_list: Any, gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                      gt_bboxes_ignore: list[Tensor] | None = None, gt_masks: Any = None,
                      **kwargs: Any) -> dict[str, Any]:
        """Losses of every stage; see ``StandardRoIHead``."""
        return self.stage_losses(x, img_metas, proposal_list, gt_bboxes, gt_labels,
                                 gt_bboxes_ignore, gt_masks)

    def stage_losses(self, x: Sequence[Tensor], img_metas: list[Meta], proposal_list: Any,
                     gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                     gt_bboxes_ignore: list[Tensor] | None, gt_masks: Any,
                     **context: Any) -> dict[str, Any]:
        """Losses of every stage, of feature maps and of :meth:`context`."""
        losses: dict[str, Any] = {}
        gts = (gt_bboxes, gt_labels, gt_bboxes_ignore)
        for i in range(self.num_stages):
            samples, found = self.stage(i, losses, x, proposal_list, *gts, context)
            if self.interleaved or i < self.num_stages - 1:
                proposal_list = self.refined(i, found, samples, img_metas)
            if self.with_mask:
                if self.interleaved:
                    samples = self.samples(self.bbox_assigner[i], self.bbox_sampler[i], x,
                                           proposal_list, *gts)
                masks = self._mask_forward_train(i, x, samples, gt_masks, self.train_cfg[i],
                                                 **context)
                self.add_losses(losses, i, masks["loss_mask"])
        return losses

    # --- results ----------------------------------------------------------------------------
    def _scores_and_boxes(self, x: Sequence[Tensor], rois: Tensor, lengths: Sequence[int],
                          img_metas: list[Meta],
                          context: dict[str, Any]) -> tuple[list[Tensor], list[Tensor], Any]:
        """RoIs of the last stage, mean scores and boxes of each image."""
        scores = []
        for i in range(self.num_stages):
            found = self._bbox_forward(i, x, rois, **context)
            score = found["cls_score"].split(list(lengths), 0)
            pred = self.split(i, found["bbox_pred"], lengths)
            scores.append(score)
            if i < self.num_stages - 1:
                head = self.bbox_head[i]
                if head.custom_activation:
                    score = [head.loss_cls.get_activation(s) for s in score]
                rois = torch.cat([
                    head.regress_by_class(r, s[:, :-1].argmax(1), p, meta) if len(r) else r
                    for r, s, p, meta in zip(rois.split(list(lengths), 0), score, pred,
                                             img_metas)])
        mean = [sum(s) / float(self.num_stages) for s in zip(*scores)]
        return list(rois.split(list(lengths), 0)), mean, pred  # type: ignore[return-value]

    def split(self, stage: int, pred: Any, lengths: Sequence[int]) -> Sequence[Any]:
        """Predictions of all images to those of each."""
        if isinstance(pred, Tensor):
            return pred.split(list(lengths), 0)
        return self.bbox_head[stage].bbox_pred_split(pred, tuple(lengths))

    def simple_test(self, x: Sequence[Tensor], proposal_list: Any,  # type: ignore[override]
                    img_metas: list[Meta], proposals: Any = None, rescale: bool = False,
                    **kwargs: Any) -> list[Any]:
        """Of each image arrays ``[n, 5]`` for each class, and with masks a pair."""
        context = self.context(x)
        boxes, labels = self.simple_test_bboxes(x, list(proposal_list), img_metas, rescale,
                                                **context)
        results = [bbox2result(b, c, self.bbox_head[-1].num_classes)
                   for b, c in zip(boxes, labels)]
        if not self.with_mask:
            return results
        masks = self.simple_test_mask(x, img_metas, boxes, labels, rescale, **context)
        return list(zip(results, masks))

    def simple_test_bboxes(self, x: Sequence[Tensor], proposals: list[Tensor],
                           img_metas: list[Meta], rescale: bool,
                           **context: Any) -> tuple[list[Tensor], list[Tensor]]:
        """Boxes and scores ``[n, 5]`` and labels ``[n]`` of each image."""
        rois = bbox2roi(proposals)
        empty = (rois.new_zeros(0, 5), rois.new_zeros((0,), dtype=torch.long))
        if len(rois) == 0:
            return [empty[0] for _ in img_metas], [empty[1] for _ in img_metas]
        parts = self._scores_and_boxes(x, rois, [len(p) for p in proposals], img_metas,
                                       context)
        found = [
            self.bbox_head[-1].get_bboxes(
                roi, score, pred, meta["img_shape"], meta["scale_factor"], rescale=rescale,
                cfg=self.test_cfg) if len(roi) else empty
            for roi, score, pred, meta in zip(*parts, img_metas)]
        return [f[0] for f in found], [f[1] for f in found]

    def mask_stages(self, x: Sequence[Tensor], rois: Tensor, **context: Any) -> list[Tensor]:
        """Mask logits [n, C, H, W] of each stage."""
        return [self._mask_forward(i, x, rois, **context)["mask_pred"]
                for i in range(self.num_stages)]

    def merged(self, stages: Sequence[Tensor], meta: Meta) -> Any:
        """The stages' logits of an image as what ``get_seg_masks`` takes."""
        return merge_aug_masks([m.sigmoid().cpu().numpy() for m in stages],
                               [[meta]] * len(stages), self.test_cfg)

    def simple_test_mask(self, x: Sequence[Tensor], img_metas: list[Meta],
                         det_bboxes: list[Tensor], det_labels: list[Tensor],
                         rescale: bool = False, **context: Any) -> list[Any]:
        """Of each image and class, masks in the image, means over the stages."""
        head = self.last_mask_head
        none: list[Any] = [[[] for _ in range(head.num_classes)] for _ in img_metas]
        if all(len(b) == 0 for b in det_bboxes):
            return none
        boxes = [b[:, :4] * b.new_tensor(m["scale_factor"]) if rescale else b[:, :4]
                 for b, m in zip(det_bboxes, img_metas)]
        lengths = [len(b) for b in boxes]
        rois = bbox2roi(boxes)
        stages = [pred.split(lengths, 0) for pred in self.mask_stages(x, rois, **context)]
        return [
            head.get_seg_masks(self.merged(masks, meta), box, label, self.test_cfg,
                               meta["ori_shape"], meta["scale_factor"], rescale)
            if len(box) else empty
            for masks, box, label, meta, empty in zip(
                zip(*stages), boxes, det_labels, img_metas, none)]

    def aug_test(self, x: list[Any], proposal_list: Any,  # type: ignore[override]
                 img_metas: list[list[Meta]], rescale: bool = False, **kwargs: Any) -> list[Any]:
        """As :meth:`simple_test`, of one image from several views, in the original image."""
        views = []
        contexts = [self.context(feats) for feats in x]
        for feats, metas, context in zip(x, img_metas, contexts):
            rois = bbox2roi([of_view(proposal_list[0], metas[0])])
            roi, score, pred = self._scores_and_boxes(feats, rois, [len(rois)], metas, context)
            views.append(self.bbox_head[-1].get_bboxes(
                roi[0], score[0], pred[0], metas[0]["img_shape"], metas[0]["scale_factor"],
                rescale=False, cfg=None))
        cfg = self.test_cfg
        boxes, scores = merge_aug_bboxes([v[0] for v in views], [v[1] for v in views], img_metas,
                                         cfg)
        boxes, labels = multiclass_nms(boxes, scores, cfg["score_thr"], cfg["nms"],
                                       cfg["max_per_img"])
        results = bbox2result(boxes, labels, self.bbox_head[-1].num_classes)
        if not self.with_mask:
            return [results]
        head = self.last_mask_head
        if len(boxes) == 0:
            return [(results, [[] for _ in range(head.num_classes)])]
        masks, metas_of = [], []
        for feats, metas, context in zip(x, img_metas, contexts):
            rois = bbox2roi([of_view(boxes, metas[0])])
            for pred in self.mask_stages(feats, rois, **context):
                masks.append(pred.sigmoid().cpu().numpy())
                metas_of.append(metas)
        merged = merge_aug_masks(masks, metas_of, cfg)
        return [(results, head.get_seg_masks(
            merged, boxes, labels, cfg, img_metas[0][0]["ori_shape"],
            scale_factor=boxes.new_ones(4), rescale=False))]
