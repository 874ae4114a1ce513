"""Boxes by grids of points (Grid R-CNN, arXiv 1811.12030)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastdet.core.bbox import Samples, bbox2result, bbox2roi

from ..builder import HEADS, build_head, build_roi_extractor
from .base_roi_head import Meta
from .standard_roi_head import StandardRoIHead

__all__ = ["GridRoIHead"]


@dataclass(frozen=True)
class Jittered:
    """Positives of an image [p, 4] that were moved a little, and their gts [p, 4]."""

    pos_bboxes: Tensor
    pos_gt_bboxes: Tensor


@HEADS.register_module()
class GridRoIHead(StandardRoIHead):
    """Classes by the box head, boxes by the grid head.

    Args:
        grid_roi_extractor: config of what pools regions for the grid; without it that of the
            boxes does.
        grid_head: config of the grid head.
        kwargs: of ``BaseRoIHead``.
    """

    grid_head: Any
    grid_roi_extractor: Any

    def __init__(self, grid_roi_extractor: Any, grid_head: Any, **kwargs: Any) -> None:
        if grid_head is None:
            raise TypeError("GridRoIHead: grid_head must be a config, got None")
        super().__init__(**kwargs)
        self.share_roi_extractor = grid_roi_extractor is None
        if self.share_roi_extractor:
            self.grid_roi_extractor = self.bbox_roi_extractor
        else:
            self.grid_roi_extractor = build_roi_extractor(grid_roi_extractor)
        self.grid_head = build_head(grid_head)

    def forward_dummy(self, x: Sequence[Tensor], proposals: Tensor) -> tuple[Tensor, ...]:
        """Raw outputs on ``proposals`` [n, 4] of one image, to count operations."""
        grids = self._grid_forward(x, bbox2roi([proposals])[:100])
        return (*super().forward_dummy(x, proposals), *grids.values())

    def _grid_feats(self, x: Sequence[Tensor], rois: Tensor) -> Tensor:
        feats = self.grid_roi_extractor(x[:self.grid_roi_extractor.num_inputs], rois)
        return self.shared_head(feats) if self.with_shared_head else feats

    def _grid_forward(self, x: Sequence[Tensor], rois: Tensor) -> dict[str, Tensor]:
        return self.grid_head(self._grid_feats(x, rois))

    def _random_jitter(self, samples: Samples, img_metas: list[Meta],
                       amplitude: float = 0.15) -> list[Jittered]:
        """Positives moved and scaled by up to ``amplitude`` of their size."""
        jittered = []
        for boxes, gts, pos, meta in zip(samples.boxes, samples.gt_boxes, samples.pos, img_metas):
            boxes = boxes[pos]
            offsets = boxes.new_empty(len(boxes), 4).uniform_(-amplitude, amplitude)
            size = (boxes[:, 2:] - boxes[:, :2]).abs()
            centre = (boxes[:, 2:] + boxes[:, :2]) / 2 + size * offsets[:, :2]
            half = size * (1 + offsets[:, 2:]) / 2
            h, w = meta["img_shape"][:2]
            limit = boxes.new_tensor([w - 1, h - 1]).clamp(min=0)
            corners = [torch.minimum(c.clamp(min=0), limit) for c in (centre - half,
                                                                      centre + half)]
            jittered.append(Jittered(torch.cat(corners, dim=1), gts[pos]))
        return jittered

    def _bbox_forward_train(self, x: Sequence[Tensor], samples: Samples, gt_bboxes: Any,
                            gt_labels: Any, img_metas: list[Meta]) -> dict[str, Any]:
        found = super()._bbox_forward_train(x, samples, gt_bboxes, gt_labels, img_metas)
        jittered = self._random_jitter(samples, img_metas)
        rois = bbox2roi([j.pos_bboxes for j in jittered])
        if len(rois) == 0:
            return found
        most = self.train_cfg.get("max_num_grid", 192)
        rows = torch.randperm(len(rois))[:most].to(rois.device)
        pred = self._grid_forward(x, rois[rows])
        targets = self.grid_head.get_targets(jittered, self.train_cfg)[rows]
        found["loss_bbox"].update(self.grid_head.loss(pred, targets))
        return found

    def simple_test(self, x: Sequence[Tensor], proposal_list: Any,  # type: ignore[override]
                    img_metas: list[Meta], proposals: Any = None, rescale: bool = False,
                    **kwargs: Any) -> list[Any]:
        """Of each image arrays ``[n, 5]`` for each class; see ``StandardRoIHead``."""
        boxes, labels = self.simple_test_bboxes(x, img_metas, proposal_list, self.test_cfg,
                                                rescale=False)
        rois = bbox2roi(boxes)
        if len(rois):
            grids = self._grid_forward(x, rois)["fused"].split([len(b) for b in boxes], 0)
            boxes = [self.grid_head.get_bboxes(b, g, [meta])
                     for b, g, meta in zip(boxes, grids, img_metas)]
            if rescale:
                boxes = [torch.cat([b[:, :4] / b.new_tensor(meta["scale_factor"]), b[:, 4:]], 1)
                         for b, meta in zip(boxes, img_metas)]
        return [bbox2result(b, c, self.bbox_head.num_classes) for b, c in zip(boxes, labels)]
