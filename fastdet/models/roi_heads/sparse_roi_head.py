"""Stages of learned proposals (Sparse R-CNN, arXiv 2011.12450; QueryInst, arXiv 2105.01928)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdet.core.bbox import (
    GroundTruth,
    PseudoSampler,
    Samples,
    bbox2result,
    bbox2roi,
    bbox_xyxy_to_cxcywh,
)
from fastdet.core.bbox.assigners.hungarian_assigner import least_cost_matchings

from ..builder import HEADS
from ..losses.utils import at_least_float32
from .base_roi_head import Meta
from .cascade_roi_head import CascadeRoIHead

__all__ = ["SparseRoIHead"]


@HEADS.register_module()
class SparseRoIHead(CascadeRoIHead):
    """Several stages that refine the boxes and features of N proposals.

    Args:
        num_stages: how many.
        stage_loss_weights: of each stage.
        proposal_feature_channel: channels of the proposals' features.
        bbox_roi_extractor: config of what pools regions for boxes, or of each stage.
        mask_roi_extractor: config of what pools regions for masks, or of each stage.
        bbox_head: config of the head of boxes, or of each stage.
        mask_head: config of the head of masks, or of each stage.
        train_cfg: of each stage; its sampler must be a ``PseudoSampler``.
        test_cfg: ``max_per_img``, and with masks ``mask_thr_binary``.
        pretrained: not used.
        init_cfg: how weights are initialised.

    Raises:
        ValueError: there are other than ``num_stages`` loss weights, or a sampler is another.
    """

    def __init__(self, num_stages: int = 6,
                 stage_loss_weights: Sequence[float] = (1, 1, 1, 1, 1, 1),
                 proposal_feature_channel: int = 256,
                 bbox_roi_extractor: Any = dict(
                     type="SingleRoIExtractor",
                     roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=2),
                     out_channels=256, featmap_strides=[4, 8, 16, 32]),
                 mask_roi_extractor: Any = None,
                 bbox_head: Any = dict(
                     type="DIIHead", num_classes=80, num_fcs=2, num_heads=8, num_cls_fcs=1,
                     num_reg_fcs=3, feedforward_channels=2048, hidden_channels=256, dropout=0.0,
                     roi_feat_size=7, ffn_act_cfg=dict(type="ReLU", inplace=True)),
                 mask_head: Any = None, train_cfg: Any = None, test_cfg: Any = None,
                 pretrained: str | None = None, init_cfg: Any = None) -> None:
        if len(stage_loss_weights) != num_stages:
            raise ValueError(f"SparseRoIHead: {num_stages} stages and {len(stage_loss_weights)} "
                             "stage_loss_weights")
        self.proposal_feature_channel = proposal_feature_channel
        super().__init__(num_stages, stage_loss_weights, bbox_roi_extractor=bbox_roi_extractor,
                         mask_roi_extractor=mask_roi_extractor, bbox_head=bbox_head,
                         mask_head=mask_head, train_cfg=train_cfg, test_cfg=test_cfg,
                         pretrained=pretrained, init_cfg=init_cfg)
        for sampler in self.bbox_sampler:
            if not isinstance(sampler, PseudoSampler):
                raise ValueError("SparseRoIHead trains every proposal: its sampler must be a "
                                 f"PseudoSampler, got {type(sampler).__name__}")

    def _refine(self, stage: int, x: Sequence[Tensor], boxes: Tensor, features: Tensor,
                img_metas: list[Meta]) -> dict[str, Tensor]:
        """What a stage makes of boxes [B, N, 4] and features [B, N, C]."""
        head, extractor = self.bbox_head[stage], self.bbox_roi_extractor[stage]
        regions = extractor(x[:extractor.num_inputs], bbox2roi(list(boxes)))
        scores, deltas, features, attended = head(regions, features)
        boxes = head.bbox_coder.decode(boxes, deltas,
                                       max_shape=[meta["img_shape"] for meta in img_metas])
        return {"cls_score": scores, "boxes": boxes, "features": features, "attended": attended}

    def _masks(self, stage: int, x: Sequence[Tensor], rois: Tensor, attended: Tensor) -> Tensor:
        """Logits [n, C, h, w] of regions [n, 5] and features [n, C]."""
        extractor = self.mask_roi_extractor[stage]
        return self.mask_head[stage](extractor(x[:extractor.num_inputs], rois), attended)

    def _stages(self, x: Sequence[Tensor], boxes: Tensor, features: Tensor,
                img_metas: list[Meta]) -> list[dict[str, Tensor]]:
        out = []
        for stage in range(self.num_stages):
            out.append(self._refine(stage, x, boxes, features, img_metas))
            boxes, features = out[-1]["boxes"].detach(), out[-1]["features"]
        return out

    def forward_dummy(self, x: Sequence[Tensor], proposal_boxes: Tensor,  # type: ignore[override]
                      proposal_features: Tensor, img_metas: list[Meta]) -> list[dict[str, Tensor]]:
        """Raw outputs of every stage, to count operations."""
        stages = self._stages(x, proposal_boxes, proposal_features, img_metas)
        if self.with_mask:
            for i, found in enumerate(stages):
                found["mask_pred"] = self._masks(i, x, bbox2roi(list(found["boxes"])),
                                                 found["attended"])
        return stages

    # --- training ---------------------------------------------------------------------------
    @torch.no_grad()
    def _samples(self, stages: list[dict[str, Tensor]], gt_bboxes: list[Tensor],
                 gt_labels: list[Tensor], img_metas: list[Meta],
                 imgs_whwh: Tensor) -> list[Samples]:
        """What each stage's proposals learn; all are matched with one copy to the host."""
        costs = []
        gt_bboxes = [boxes.to(imgs_whwh.dtype) for boxes in gt_bboxes]
        for assigner, found in zip(self.bbox_assigner, stages):
            unit = bbox_xyxy_to_cxcywh(found["boxes"] / imgs_whwh)
            costs += [assigner.cost(box, at_least_float32(score), gts, labels, meta["img_shape"])
                      for box, score, gts, labels, meta in zip(
                          unit, found["cls_score"], gt_bboxes, gt_labels, img_metas)]
        b = len(img_metas)
        inds = torch.stack(least_cost_matchings(costs)).unflatten(0, (-1, b))
        gts = GroundTruth.pad(gt_bboxes, gt_labels)
        out = []
        for gt_inds, found in zip(inds, stages):
            pos = gt_inds > 0
            boxes, labels = gts.of(gt_inds)
            out.append(Samples(found["boxes"].detach(), torch.ones_like(pos), pos, boxes, labels,
                               (gt_inds - 1).clamp(min=0), torch.zeros_like(pos)))
        return out

    def _mask_loss(self, stage: int, x: Sequence[Tensor], attended: Tensor, samples: Samples,
                   gt_masks: Any) -> dict[str, Tensor]:
        pos = samples.pos_rows
        pred = self._masks(stage, x, samples.rois[pos], attended.flatten(0, 1)[pos])
        head = self.mask_head[stage]
        targets = head.get_targets(samples, gt_masks, self.train_cfg[stage])
        return head.loss(pred, targets, samples.gt_labels.flatten()[pos])

    def forward_train(self, x: Sequence[Tensor], proposal_boxes: Tensor,  # type: ignore[override]
                      proposal_features: Tensor, img_metas: list[Meta], gt_bboxes: list[Tensor],
                      gt_labels: list[Tensor], gt_bboxes_ignore: list[Tensor] | None = None,
                      imgs_whwh: Any = None, gt_masks: Any = None) -> dict[str, Tensor]:
        """Losses of every stage.

        Args:
            x: feature maps.
            proposal_boxes: [B, N, 4], corners in pixels.
            proposal_features: [B, N, C].
            img_metas: ``img_shape`` is read.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            gt_bboxes_ignore: must be ``None``.
            imgs_whwh: [B, 1, 4], width and height of each image, twice.
            gt_masks: of each image, where masks are trained.

        Returns:
            ``stage0_loss_cls``, ``stage0_pos_acc`` …, weighed.

        Raises:
            ValueError: there are ignored regions.
        """
        if gt_bboxes_ignore is not None:
            raise ValueError(f"{type(self).__name__}: every proposal is matched or background; "
                             "gt_bboxes_ignore cannot be given")
        stages = self._stages(x, proposal_boxes, proposal_features, img_metas)
        losses = {}
        for i, (found, samples) in enumerate(zip(stages, self._samples(
                stages, gt_bboxes, gt_labels, img_metas, imgs_whwh))):
            head = self.bbox_head[i]
            targets = head.get_targets(samples, gt_bboxes, gt_labels, self.train_cfg[i])
            of_stage = head.loss(found["cls_score"].flatten(0, 1), found["boxes"].flatten(0, 1),
                                 *targets, imgs_whwh=imgs_whwh.expand_as(found["boxes"]))
            if self.with_mask:
                of_stage.update(self._mask_loss(i, x, found["attended"], samples, gt_masks))
            for name, value in of_stage.items():
                losses[f"stage{i}_{name}"] = value * self.stage_loss_weights[i]
        return losses

    # --- results ----------------------------------------------------------------------------
    def simple_test(self, x: Sequence[Tensor], proposal_boxes: Tensor,  # type: ignore[override]
                    proposal_features: Tensor, img_metas: list[Meta], imgs_whwh: Any = None,
                    rescale: bool = False) -> list[Any]:
        """Of each image arrays ``[n, 5]`` for each class, and with masks a pair.

        Args:
            x: feature maps.
            proposal_boxes: [B, N, 4], corners in pixels.
            proposal_features: [B, N, C].
            img_metas: of each image.
            imgs_whwh: not used.
            rescale: in pixels of the original image.
        """
        last = self._stages(x, proposal_boxes, proposal_features, img_metas)[-1]
        classes = self.bbox_head[-1].num_classes
        scores = at_least_float32(last["cls_score"])
        scores = (scores.sigmoid() if self.bbox_head[-1].loss_cls.use_sigmoid
                  else scores.softmax(-1)[..., :-1])
        scores, pairs = scores.flatten(1).topk(self.test_cfg["max_per_img"], sorted=False)
        rows, labels = pairs // classes, pairs % classes
        boxes = last["boxes"].gather(1, rows[..., None].expand(-1, -1, 4))
        shown = boxes
        if rescale:
            shown = boxes / torch.stack(
                [boxes.new_tensor(meta["scale_factor"]) for meta in img_metas])[:, None]
        results = [bbox2result(b, c, classes) for b, c in zip(
            torch.cat([shown, scores[..., None].to(shown.dtype)], dim=-1), labels)]
        if not self.with_mask:
            return results
        pred = self._masks(-1, x, bbox2roi(list(last["boxes"])), last["attended"])
        pred = pred.unflatten(0, last["boxes"].shape[:2])
        masks = []
        for i, meta in enumerate(img_metas):
            # As in MMDetection, the masks are those of the pairs found in the batch's last image.
            own = pred[i, rows[-1], labels[-1]][:, None].expand(-1, classes, -1, -1)
            masks.append(self.mask_head[-1].get_seg_masks(
                own, boxes[i], labels[i], self.test_cfg, meta["ori_shape"],
                meta["scale_factor"], rescale))
        return list(zip(results, masks))

    def aug_test(self, x: list[Any], proposal_list: Any,  # type: ignore[override]
                 img_metas: list[list[Meta]], rescale: bool = False) -> Any:
        """Not defined.

        Raises:
            TypeError: always.
        """
        raise TypeError("Sparse R-CNN and QueryInst have no test-time augmentation")
