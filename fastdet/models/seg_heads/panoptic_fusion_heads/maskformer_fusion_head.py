"""Panoptic and instance results of labelled masks (MaskFormer, arXiv 2107.06278)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdet.core.evaluation.panoptic_utils import INSTANCE_OFFSET
from fastdet.core.mask import mask2bbox

from ...builder import HEADS
from ...losses.utils import at_least_float32
from .base_panoptic_fusion_head import BasePanopticFusionHead

__all__ = ["MaskFormerFusionHead"]


@HEADS.register_module()
class MaskFormerFusionHead(BasePanopticFusionHead):
    """Gives each pixel to a mask, or ranks masks as instances.

    Args:
        num_things_classes: classes of things, the first ones.
        num_stuff_classes: classes of stuff, behind them.
        test_cfg: ``panoptic_on``, ``instance_on``, ``object_mask_thr``, ``iou_thr``,
            ``filter_low_score``, ``max_per_image``.
        loss_panoptic: config of a loss, if any.
        init_cfg: how weights are initialised.
        kwargs: not used.
    """

    def forward_train(self, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Nothing here is trained."""
        return {}

    def panoptic_postprocess(self, mask_cls: Tensor, mask_pred: Tensor) -> Tensor:
        """A class and an instance for each pixel of one image.

        Args:
            mask_cls: [Q, classes + 1], logits.
            mask_pred: [Q, H, W], logits.

        Returns:
            [H, W] int32: the class of stuff; of things, the class plus ``INSTANCE_OFFSET`` times
            the instance, counted from 1; ``num_classes`` where there is neither.
        """
        cfg = self.test_cfg
        scores, labels = mask_cls.softmax(-1).max(-1)
        keep = (labels != self.num_classes) & (scores > cfg.get("object_mask_thr", 0.8))
        scores, labels, masks = scores[keep], labels[keep], mask_pred.sigmoid()[keep]
        out = torch.full(mask_pred.shape[-2:], self.num_classes, dtype=torch.int32,
                         device=mask_pred.device)
        if len(masks) == 0:
            return out
        owner = (scores.view(-1, 1, 1) * masks).argmax(0)
        own = owner == torch.arange(len(masks), device=owner.device).view(-1, 1, 1)
        confident = masks >= 0.5
        areas = own.flatten(1).sum(1), confident.flatten(1).sum(1)
        if cfg.get("filter_low_score", False):
            own = own & confident
        instance = 1
        for label, mine, whole, mask in zip(labels.tolist(), *(a.tolist() for a in areas), own):
            if mine == 0 or whole == 0 or mine / whole < cfg.get("iou_thr", 0.8):
                continue  # mostly hidden by others
            if label >= self.num_things_classes:
                out[mask] = label
            else:
                out[mask] = label + instance * INSTANCE_OFFSET
                instance += 1
        return out

    def instance_postprocess(self, mask_cls: Tensor,
                             mask_pred: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best instances of one image.

        Args:
            mask_cls: [Q, classes + 1], logits.
            mask_pred: [Q, H, W], logits.

        Returns:
            Labels ``[n]``, boxes and scores ``[n, 5]`` and masks ``[n, H, W]``, bool.
        """
        scores = mask_cls.softmax(-1)[:, :-1].flatten()
        scores, pairs = scores.topk(self.test_cfg.get("max_per_image", 100), sorted=False)
        labels = pairs % self.num_classes
        thing = labels < self.num_things_classes
        scores, labels = scores[thing], labels[thing]
        logits = mask_pred[pairs[thing] // self.num_classes]
        masks = logits > 0
        inside = (logits.sigmoid() * masks).flatten(1).sum(1) / (masks.flatten(1).sum(1) + 1e-6)
        boxes = mask2bbox(masks)
        return labels, torch.cat([boxes, (scores * inside)[:, None]], dim=-1), masks

    def simple_test(self, mask_cls_results: Tensor,  # type: ignore[override]
                    mask_pred_results: Tensor, img_metas: list[dict[str, Any]],
                    rescale: bool = False, **kwargs: Any) -> list[dict[str, Any]]:
        """Results of each image.

        Args:
            mask_cls_results: [B, Q, classes + 1], logits.
            mask_pred_results: [B, Q, H, W], logits in the padded input.
            img_metas: ``img_shape`` and ``ori_shape`` are read.
            rescale: in the original image.
            kwargs: not used.

        Returns:
            Of each image ``pan_results`` and ``ins_results``, where they are on.

        Raises:
            ValueError: semantic results are asked for.
        """
        if self.test_cfg.get("semantic_on", False):
            raise ValueError(f"{type(self).__name__} has no semantic results; set "
                             "semantic_on=False")
        results = []
        for scores, masks, meta in zip(at_least_float32(mask_cls_results),
                                       at_least_float32(mask_pred_results), img_metas):
            h, w = meta["img_shape"][:2]
            masks = masks[:, :h, :w]
            if rescale:
                masks = F.interpolate(masks[:, None], size=tuple(meta["ori_shape"][:2]),
                                      mode="bilinear", align_corners=False)[:, 0]
            result: dict[str, Any] = {}
            if self.test_cfg.get("panoptic_on", True):
                result["pan_results"] = self.panoptic_postprocess(scores, masks)
            if self.test_cfg.get("instance_on", False):
                result["ins_results"] = self.instance_postprocess(scores, masks)
            results.append(result)
        return results
