"""The region proposal network with guided anchors (arXiv 1901.03278)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.core.bbox import Proposals
from fastdet.core.post_processing.merge_augs import proposal_settings

from ..builder import HEADS
from .base_dense_head import Meta
from .candidates import Candidates, suppress
from .guided_anchor_head import GuidedAnchorHead
from .rpn_head import RPNHead

__all__ = ["GARPNHead"]


@HEADS.register_module()
class GARPNHead(GuidedAnchorHead):
    """Proposes boxes from guided anchors.

    Args:
        in_channels: of the feature maps.
        init_cfg: how weights are initialised.
        kwargs: of :class:`GuidedAnchorHead`; its ``test_cfg`` has ``nms_pre``, ``nms_post``,
            ``nms``, ``max_per_img``, ``min_bbox_size`` and ``nms_across_levels``.
    """

    def __init__(self, in_channels: int,
                 init_cfg: Any = dict(
                     type="Normal", layer="Conv2d", std=0.01,
                     override=dict(type="Normal", name="conv_loc", std=0.01, bias_prob=0.01)),
                 **kwargs: Any) -> None:
        super().__init__(1, in_channels, init_cfg=init_cfg, **kwargs)

    def _init_layers(self) -> None:
        self.rpn_conv = nn.Conv2d(self.in_channels, self.feat_channels, 3, padding=1)
        super()._init_layers()

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """As :meth:`GuidedAnchorHead.forward_single`."""
        return super().forward_single(F.relu(self.rpn_conv(x)))

    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             shape_preds: list[Tensor], loc_preds: list[Tensor], gt_bboxes: list[Tensor],
             img_metas: list[Meta], gt_bboxes_ignore: list[Tensor] | None = None
             ) -> dict[str, list[Tensor]]:
        """As :meth:`GuidedAnchorHead.loss`, without classes: ``loss_rpn_cls``, ``loss_rpn_bbox``,
        ``loss_anchor_shape`` and ``loss_anchor_loc``."""
        losses = super().loss(cls_scores, bbox_preds, shape_preds, loc_preds, gt_bboxes, None,
                              img_metas, gt_bboxes_ignore)
        names = {"cls": "rpn_cls", "bbox": "rpn_bbox", "shape": "anchor_shape",
                 "loc": "anchor_loc"}
        return {f"loss_{new}": losses[f"loss_{old}"] for old, new in names.items()}

    get_bboxes = RPNHead.get_bboxes  # type: ignore[assignment]

    @torch.no_grad()
    def proposals(self, outs: tuple[Any, ...], img_metas: list[Meta], cfg: Any) -> Proposals:
        """Proposals and scores [B, K, 5], padded: without a host sync.

        Each level is suppressed on its own and cut to ``nms_post``; of all levels, the highest are
        left or, with ``nms_across_levels``, those that another suppression leaves.
        """
        cfg = proposal_settings(cfg)
        most, least = cfg["max_per_img"], cfg.get("min_bbox_size", -1)
        levels = []
        for boxes, scores, there in self.best(outs, img_metas, cfg):
            if least >= 0:
                there = there & (boxes[..., 2:] - boxes[..., :2] > least).all(-1)
            scores = scores[..., 0]
            found = suppress(
                Candidates(boxes, scores, torch.zeros_like(scores, dtype=torch.long), there),
                cfg["nms"], cfg.get("nms_post", most))
            levels.append((found.boxes, found.labels))
        found_boxes, labels = (torch.cat(part, dim=1) for part in zip(*levels))
        boxes, scores, there = found_boxes[..., :4], found_boxes[..., 4], labels >= 0
        if cfg.get("nms_across_levels", False):
            found = suppress(Candidates(boxes, scores, labels, there), cfg["nms"], most)
            return Proposals(found.boxes, found.counts)
        rows = scores.masked_fill(~there, -1.0).topk(min(most, scores.shape[1]), dim=1).indices
        return Proposals(found_boxes.gather(1, rows[..., None].expand(-1, -1, 5)),
                         there.sum(1).clamp(max=rows.shape[1]))
