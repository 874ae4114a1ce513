"""Masks whose uncertain points are looked at again (PointRend, arXiv 1912.08193)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastdet.core.bbox import Samples
from fastdet.ops import point_sample, rel_roi_point_to_rel_img_point

from ..builder import HEADS, build_head
from .base_roi_head import Meta
from .standard_roi_head import StandardRoIHead

__all__ = ["PointRendRoIHead"]


@HEADS.register_module()
class PointRendRoIHead(StandardRoIHead):
    """A StandardRoIHead whose masks a point head refines.

    Args:
        point_head: its config.
        args: of ``BaseRoIHead``.
        kwargs: of ``BaseRoIHead``.

    Raises:
        ValueError: there is no head of boxes or of masks.
    """

    point_head: Any

    def __init__(self, point_head: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not (self.with_bbox and self.with_mask):
            raise ValueError("PointRendRoIHead needs bbox_head and mask_head")
        self.init_point_head(point_head)

    def init_point_head(self, point_head: Any) -> None:
        """Build what predicts points."""
        self.point_head = build_head(point_head)

    def _point_forward(self, x: Sequence[Tensor], rois: Tensor, points: Tensor,
                       mask_pred: Tensor) -> Tensor:
        """Logits [n, C, P] at points [n, P, 2] of regions with coarse masks [n, C, h, w]."""
        return self.point_head(self._fine_grained_point_feats(x, rois, points),
                               point_sample(mask_pred, points.to(mask_pred.dtype)))

    def _fine_grained_point_feats(self, x: Sequence[Tensor], rois: Tensor,
                                  points: Tensor) -> Tensor:
        """Feature maps at points, [n, C, P]."""
        extractor = self.mask_roi_extractor
        fine = []
        for feat, stride in zip(x, extractor.featmap_strides[:extractor.num_inputs]):
            at = rel_roi_point_to_rel_img_point(rois, points, feat,
                                                1.0 / float(stride)).to(feat.dtype)
            of_image = feat.new_zeros(len(rois), feat.shape[1], points.shape[1])
            for i in range(len(feat)):  # one map serves all regions of its image
                mine = (rois[:, 0] == i).nonzero()[:, 0]
                if len(mine):
                    found = point_sample(feat[i:i + 1], at[mine][None])[0]
                    of_image = of_image.index_put((mine,), found.transpose(0, 1))
            fine.append(of_image)
        return torch.cat(fine, dim=1)

    def _mask_forward_train(self, x: Sequence[Tensor], samples: Samples,
                            bbox_feats: Tensor | None, gt_masks: Any,
                            img_metas: list[Meta]) -> dict[str, Any]:
        found = super()._mask_forward_train(x, samples, bbox_feats, gt_masks, img_metas)
        pos = samples.pos_rows
        rois, labels = samples.rois[pos], samples.gt_labels.flatten()[pos]
        masks, cfg = found["mask_pred"], self.train_cfg
        points = self.point_head.get_roi_rel_points_train(masks, labels, cfg)
        pred = self._point_forward(x, rois, points, masks)
        targets = self.point_head.get_targets(rois, points, samples, gt_masks, cfg)
        found["loss_mask"].update(self.point_head.loss(pred, targets, labels))
        return found

    def test_masks(self, x: Sequence[Tensor], rois: Tensor, labels: Tensor) -> Tensor:
        """Mask logits [n, C, H, W] of regions [n, 5], made larger and refined step by step."""
        coarse = super().test_masks(x, rois, labels)
        masks, cfg = coarse, self.test_cfg
        for step in range(cfg["subdivision_steps"]):
            masks = F.interpolate(masks, scale_factor=cfg["scale_factor"], mode="bilinear",
                                  align_corners=False)
            n, c, h, w = masks.shape
            last = step == cfg["subdivision_steps"] - 1
            if cfg["subdivision_num_points"] >= cfg["scale_factor"] ** 2 * h * w and not last:
                continue  # the next step will look at all of these points
            rows, points = self.point_head.get_roi_rel_points_test(masks, labels, cfg)
            pred = self._point_forward(x, rois, points, coarse)
            masks = masks.view(n, c, h * w).scatter(
                2, rows[:, None].expand(-1, c, -1), pred).view(n, c, h, w)
        return masks
