"""Boxes, and with a head for them masks, of regions (arXiv 1506.01497 and 1703.06870)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.core.bbox import (
    Proposals,
    Samples,
    bbox2result,
    bbox2roi,
    bbox_mapping,
    build_assigner,
    build_sampler,
    padded_rois,
)
from fastdet.core.post_processing import merge_aug_bboxes, merge_aug_masks, multiclass_nms

from ..builder import HEADS, build_head, build_roi_extractor
from ..dense_heads.candidates import (
    Candidates,
    Detections,
    Metas,
    of_images,
    scale_factors,
    suppress,
)
from .base_roi_head import BaseRoIHead, Meta
from .bbox_heads import BBoxHead

__all__ = ["StandardRoIHead"]


def of_view(boxes: Tensor, meta: Meta) -> Tensor:
    """Boxes of the original image in one view of it."""
    return bbox_mapping(boxes[:, :4], meta["img_shape"], meta["scale_factor"], meta["flip"],
                        meta.get("flip_direction") or "horizontal")


@HEADS.register_module()
class StandardRoIHead(BaseRoIHead):
    """One stage of boxes, and one of masks."""

    def init_assigner_sampler(self) -> None:
        """Build what chooses regions to train on."""
        self.bbox_assigner = self.bbox_sampler = None
        if self.train_cfg:
            self.bbox_assigner = build_assigner(self.train_cfg["assigner"])
            self.bbox_sampler = build_sampler(self.train_cfg["sampler"], context=self)

    def init_bbox_head(self, bbox_roi_extractor: Any, bbox_head: Any) -> None:
        """Build what predicts boxes."""
        self.bbox_roi_extractor = build_roi_extractor(bbox_roi_extractor)
        self.bbox_head = build_head(bbox_head)

    def init_mask_head(self, mask_roi_extractor: Any, mask_head: Any) -> None:
        """Build what predicts masks."""
        self.share_roi_extractor = mask_roi_extractor is None
        if self.share_roi_extractor:
            self.mask_roi_extractor = self.bbox_roi_extractor
        else:
            self.mask_roi_extractor = build_roi_extractor(mask_roi_extractor)
        self.mask_head = build_head(mask_head)

    def forward_dummy(self, x: Sequence[Tensor], proposals: Tensor) -> tuple[Tensor, ...]:
        """Raw outputs on ``proposals`` [n, 4] of one image, to count operations."""
        outs: tuple[Tensor, ...] = ()
        rois = bbox2roi([proposals])
        if self.with_bbox:
            found = self._bbox_forward(x, rois)
            outs += (found["cls_score"], found["bbox_pred"])
        if self.with_mask:
            outs += (self._mask_forward(x, rois[:100])["mask_pred"],)
        return outs

    # --- training ---------------------------------------------------------------------------
    def forward_train(self, x: Sequence[Tensor], img_metas: list[Meta],  # type: ignore[override]
                      proposal_list: Any, gt_bboxes: list[Tensor], gt_labels: list[Tensor],
                      gt_bboxes_ignore: list[Tensor] | None = None, gt_masks: Any = None,
                      **kwargs: Any) -> dict[str, Any]:
        """Losses of feature maps and proposals.

        Args:
            x: feature maps.
            img_metas: of each image.
            proposal_list: [n, 4 or more] of each image.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            gt_bboxes_ignore: [g, 4] of each image.
            gt_masks: of each image, where masks are trained.
            kwargs: not used.
        """
        samples = self.samples(self.bbox_assigner, self.bbox_sampler, x, proposal_list, gt_bboxes,
                               gt_labels, gt_bboxes_ignore)
        losses: dict[str, Any] = {}
        found: dict[str, Any] = {"bbox_feats": None}
        if self.with_bbox:
            found = self._bbox_forward_train(x, samples, gt_bboxes, gt_labels, img_metas)
            losses.update(found["loss_bbox"])
        if self.with_mask:
            masks = self._mask_forward_train(x, samples, found["bbox_feats"], gt_masks, img_metas)
            losses.update(masks["loss_mask"])
        return losses

    def _bbox_forward(self, x: Sequence[Tensor], rois: Tensor) -> dict[str, Any]:
        feats = self.bbox_roi_extractor(x[:self.bbox_roi_extractor.num_inputs], rois)
        if self.with_shared_head:
            feats = self.shared_head(feats)
        cls_score, bbox_pred = self.bbox_head(feats)
        return {"cls_score": cls_score, "bbox_pred": bbox_pred, "bbox_feats": feats}

    def _bbox_forward_train(self, x: Sequence[Tensor], samples: Samples, gt_bboxes: Any,
                            gt_labels: Any, img_metas: list[Meta]) -> dict[str, Any]:
        rois = samples.rois
        found = self._bbox_forward(x, rois)
        targets = self.bbox_head.get_targets(samples, gt_bboxes, gt_labels, self.train_cfg)
        loss = self.bbox_head.loss(found["cls_score"], found["bbox_pred"], rois, *targets,
                                   num_rois=samples.valid.sum())
        return {**found, "loss_bbox": loss, "bbox_targets": targets}

    def _mask_forward(self, x: Sequence[Tensor], rois: Tensor | None = None,
                      pos_inds: Tensor | None = None,
                      bbox_feats: Tensor | None = None) -> dict[str, Any]:
        if rois is not None:
            feats = self.mask_roi_extractor(x[:self.mask_roi_extractor.num_inputs], rois)
            if self.with_shared_head:
                feats = self.shared_head(feats)
        elif bbox_feats is not None:
            feats = bbox_feats[pos_inds]
        else:
            raise ValueError("masks need rois, or pos_inds and bbox_feats")
        return {"mask_pred": self.mask_head(feats), "mask_feats": feats}

    def _mask_forward_train(self, x: Sequence[Tensor], samples: Samples,
                            bbox_feats: Tensor | None, gt_masks: Any,
                            img_metas: list[Meta]) -> dict[str, Any]:
        pos = samples.pos_rows
        if self.share_roi_extractor:
            found = self._mask_forward(x, pos_inds=pos, bbox_feats=bbox_feats)
        else:
            found = self._mask_forward(x, samples.rois[pos])
        targets = self.mask_head.get_targets(samples, gt_masks, self.train_cfg)
        loss = self.mask_head.loss(found["mask_pred"], targets, samples.gt_labels.flatten()[pos])
        return {**found, "loss_mask": loss, "mask_targets": targets}

    # --- results ----------------------------------------------------------------------------
    def simple_test(self, x: Sequence[Tensor], proposal_list: Any,  # type: ignore[override]
                    img_metas: list[Meta], proposals: Any = None, rescale: bool = False,
                    **kwargs: Any) -> list[Any]:
        """Of each image arrays ``[n, 5]`` for each class, and with masks a pair.

        Args:
            x: feature maps.
            proposal_list: of each image.
            img_metas: of each image.
            proposals: not used.
            rescale: in pixels of the original image.
            kwargs: not used.
        """
        boxes, labels = self.simple_test_bboxes(x, img_metas, proposal_list, self.test_cfg,
                                                rescale=rescale)
        results = [bbox2result(b, c, self.bbox_head.num_classes) for b, c in zip(boxes, labels)]
        if not self.with_mask:
            return results
        masks = self.simple_test_mask(x, img_metas, boxes, labels, rescale=rescale)
        return list(zip(results, masks))

    def split(self, pred: Any, lengths: Sequence[int]) -> Sequence[Any]:
        """Predictions of all images to those of each."""
        if pred is None:
            return [None] * len(lengths)
        if isinstance(pred, Tensor):
            return pred.split(list(lengths), 0)
        return self.bbox_head.bbox_pred_split(pred, tuple(lengths))

    def no_boxes(self, like: Tensor, cfg: Any, head: Any) -> tuple[Tensor, Tensor]:
        """Detections of an image without proposals."""
        if cfg is None:
            return like.new_zeros(0, 4), like.new_zeros(0, head.fc_cls.out_features)
        return like.new_zeros(0, 5), like.new_zeros((0,), dtype=torch.long)

    def simple_test_bboxes(self, x: Sequence[Tensor], img_metas: list[Meta], proposals: Any,
                           rcnn_test_cfg: Any,
                           rescale: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """Boxes and scores ``[n, 5]`` and labels ``[n]`` of each image.

        Without ``rcnn_test_cfg`` nothing is suppressed; see ``BBoxHead.get_bboxes``.
        """
        proposals = list(proposals)
        rois = bbox2roi(proposals)
        lengths = [len(p) for p in proposals]
        if len(rois) == 0:
            found = [self.no_boxes(rois, rcnn_test_cfg, self.bbox_head) for _ in lengths]
            return [f[0] for f in found], [f[1] for f in found]
        outs = self._bbox_forward(x, rois)
        found = []
        for roi, score, pred, meta in zip(
                rois.split(lengths, 0), self.split(outs["cls_score"], lengths),
                self.split(outs["bbox_pred"], lengths), img_metas):
            if len(roi) == 0:
                found.append(self.no_boxes(rois, rcnn_test_cfg, self.bbox_head))
            else:
                found.append(self.bbox_head.get_bboxes(
                    roi, score, pred, meta["img_shape"], meta["scale_factor"], rescale=rescale,
                    cfg=rcnn_test_cfg))
        return [f[0] for f in found], [f[1] for f in found]

    def detect(self, x: Sequence[Tensor], proposals: Proposals, img_metas: Metas,
               rescale: bool = False, max_pairs: int = 4096) -> Detections:
        """Padded boxes of a batch, without a host sync: what compilers and exports take.

        They are those of :meth:`simple_test` as long as an image has at most ``max_pairs`` pairs
        of region and class above ``score_thr``; of more, the highest take part.

        Args:
            x: feature maps.
            proposals: of the batch.
            img_metas: of each image, or one that all share.
            rescale: in pixels of the original image.
            max_pairs: how many pairs of region and class of an image are suppressed.

        Raises:
            TypeError: this head, or its head of boxes, finds boxes in another way.
        """
        head, own = self.bbox_head, type(self)
        if (own.simple_test is not StandardRoIHead.simple_test
                or own.simple_test_bboxes is not StandardRoIHead.simple_test_bboxes
                or type(head).get_bboxes is not BBoxHead.get_bboxes
                or type(head).decoded is not BBoxHead.decoded or not head.with_reg):
            raise TypeError(f"{own.__name__} with {type(head).__name__} has no padded detections")
        b, k = proposals.boxes.shape[:2]
        rois = padded_rois(proposals.boxes)
        outs = self._bbox_forward(x, rois.flatten(0, 1))
        boxes = head.bbox_coder.decode(rois[..., 1:], outs["bbox_pred"].view(b, k, -1),
                                       max_shape=of_images(img_metas, "img_shape"))
        scores = head.probabilities(outs["cls_score"]).view(b, k, -1)[..., :-1]
        classes = scores.shape[-1]
        valid = (scores > self.test_cfg["score_thr"]) & proposals.valid[..., None]
        pairs = torch.where(valid, scores, -1.0).flatten(1).topk(
            torch.sym_min(max_pairs, k * classes), dim=1).indices
        row, label = pairs // classes, pairs % classes
        at = row if boxes.shape[-1] == 4 else row * classes + label
        found = Candidates(
            boxes.view(b, -1, 4).gather(1, at[..., None].expand(-1, -1, 4)),
            scores.flatten(1).gather(1, pairs), label, valid.flatten(1).gather(1, pairs))
        if rescale:
            found = found._replace(boxes=found.boxes / scale_factors(boxes, img_metas))
        return suppress(found, self.test_cfg["nms"], self.test_cfg["max_per_img"])

    def detect_masks(self, x: Sequence[Tensor], found: Detections, img_metas: Metas,
                     rescale: bool = False) -> Tensor:
        """The masks of padded boxes, as they lie in their boxes, without a host sync.

        Args:
            x: feature maps.
            found: what :meth:`detect` returned.
            img_metas: of each image, or one that all share.
            rescale: ``found`` is in pixels of the original image.

        Returns:
            Probabilities ``[B, K, h, w]``, zeros behind an image's own; ``sampled_masks`` puts
            them into the image.

        Raises:
            TypeError: this head has no masks, or finds them in another way.
        """
        if not self.with_mask or type(self).simple_test_mask is not (
                StandardRoIHead.simple_test_mask):
            raise TypeError(f"{type(self).__name__} has no padded masks")
        boxes = found.boxes[..., :4]
        if rescale:
            boxes = boxes * scale_factors(boxes, img_metas)
        there = found.labels >= 0
        labels = torch.where(there, found.labels, 0).flatten()
        logits = self.test_masks(x, padded_rois(boxes).flatten(0, 1), labels)
        h, w = logits.shape[2:]
        if self.mask_head.class_agnostic:
            labels = torch.zeros_like(labels)
        own = logits.gather(1, labels[:, None, None, None].expand(-1, 1, h, w))
        return torch.where(there[..., None, None], own.view(*there.shape, h, w).sigmoid(), 0.0)

    def test_boxes(self, det_bboxes: Sequence[Tensor], img_metas: list[Meta],
                   rescale: bool) -> list[Tensor]:
        """Detections [n, 4] of each image in pixels of the input, where regions are pooled."""
        if not rescale:
            return [b[:, :4] for b in det_bboxes]
        return [b[:, :4] * b.new_tensor(m["scale_factor"]) for b, m in zip(det_bboxes, img_metas)]

    def test_masks(self, x: Sequence[Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        """Mask logits [n, C, h, w] of detected regions [n, 5] and their classes [n]."""
        return self._mask_forward(x, rois)["mask_pred"]

    def simple_test_mask(self, x: Sequence[Tensor], img_metas: list[Meta],
                         det_bboxes: list[Tensor], det_labels: list[Tensor],
                         rescale: bool = False) -> list[Any]:
        """Of each image and class, masks in the image."""
        none: list[Any] = [[[] for _ in range(self.mask_head.num_classes)] for _ in img_metas]
        if all(len(b) == 0 for b in det_bboxes):
            return none
        boxes = self.test_boxes(det_bboxes, img_metas, rescale)
        pred = self.test_masks(x, bbox2roi(boxes), torch.cat(det_labels))
        return [
            self.mask_head.get_seg_masks(mask, box, label, self.test_cfg, meta["ori_shape"],
                                         meta["scale_factor"], rescale) if len(box) else empty
            for mask, box, label, meta, empty in zip(
                pred.split([len(b) for b in boxes], 0), boxes, det_labels, img_metas, none)]

    def aug_test(self, x: list[Any], proposal_list: Any,  # type: ignore[override]
                 img_metas: list[list[Meta]], rescale: bool = False, **kwargs: Any) -> list[Any]:
        """As :meth:`simple_test`, of one image from several views."""
        boxes, labels = self.aug_test_bboxes(x, img_metas, proposal_list, self.test_cfg)
        shown = boxes
        if not rescale:
            factor = boxes.new_tensor(img_metas[0][0]["scale_factor"])
            shown = torch.cat([boxes[:, :4] * factor, boxes[:, 4:]], dim=1)
        results = bbox2result(shown, labels, self.bbox_head.num_classes)
        if not self.with_mask:
            return [results]
        return [(results, self.aug_test_mask(x, img_metas, boxes, labels))]

    def aug_test_bboxes(self, feats: list[Any], img_metas: list[list[Meta]], proposal_list: Any,
                        rcnn_test_cfg: Any) -> tuple[Tensor, Tensor]:
        """Boxes and scores ``[n, 5]`` in pixels of the original image, and labels ``[n]``."""
        views = []
        for x, (meta, *_) in zip(feats, img_metas):
            rois = bbox2roi([of_view(proposal_list[0], meta)])
            outs = self._bbox_forward(x, rois)
            views.append(self.bbox_head.get_bboxes(
                rois, outs["cls_score"], outs["bbox_pred"], meta["img_shape"],
                meta["scale_factor"], rescale=False, cfg=None))
        boxes, scores = merge_aug_bboxes([v[0] for v in views], [v[1] for v in views], img_metas,
                                         rcnn_test_cfg)
        if len(boxes) == 0:
            return self.no_boxes(boxes, rcnn_test_cfg, self.bbox_head)
        found = multiclass_nms(boxes, scores, rcnn_test_cfg["score_thr"], rcnn_test_cfg["nms"],
                               rcnn_test_cfg["max_per_img"])
        return found[0], found[1]

    def aug_test_mask(self, feats: list[Any], img_metas: list[list[Meta]], det_bboxes: Tensor,
                      det_labels: Tensor) -> list[Any]:
        """Of each class, masks in the original image, means over the views."""
        if len(det_bboxes) == 0:
            return [[] for _ in range(self.mask_head.num_classes)]
        views = [self.test_masks(x, bbox2roi([of_view(det_bboxes, metas[0])]), det_labels)
                 .sigmoid().cpu().numpy() for x, metas in zip(feats, img_metas)]
        merged = merge_aug_masks(views, img_metas, self.test_cfg)
        return self.mask_head.get_seg_masks(
            merged, det_bboxes, det_labels, self.test_cfg, img_metas[0][0]["ori_shape"],
            scale_factor=det_bboxes.new_ones(4), rescale=False)
