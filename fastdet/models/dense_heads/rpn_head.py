"""The region proposal network (Faster R-CNN, arXiv 1506.01497, section 3.1)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.core.bbox import Proposals
from fastdet.core.post_processing.merge_augs import proposal_settings

from ..builder import HEADS
from .anchor_head import AnchorHead
from .base_dense_head import Meta
from .candidates import Candidates, Metas, of_images, suppress

__all__ = ["RPNHead"]


@HEADS.register_module()
class RPNHead(AnchorHead):
    """Scores anchors as object or not, and proposes their boxes.

    Args:
        in_channels: of the feature maps.
        init_cfg: how weights are initialised.
        num_convs: convolutions before the two outputs.
        kwargs: of :class:`AnchorHead`.
    """

    def __init__(self, in_channels: int,
                 init_cfg: Any = dict(type="Normal", layer="Conv2d", std=0.01),
                 num_convs: int = 1, **kwargs: Any) -> None:
        self.num_convs = num_convs
        super().__init__(1, in_channels, init_cfg=init_cfg, **kwargs)

    def _init_layers(self) -> None:
        if self.num_convs > 1:
            self.rpn_conv: nn.Module = nn.Sequential(*[
                ConvModule(self.in_channels if i == 0 else self.feat_channels,
                           self.feat_channels, 3, padding=1, inplace=False)
                for i in range(self.num_convs)])
        else:
            self.rpn_conv = nn.Conv2d(self.in_channels, self.feat_channels, 3, padding=1)
        self.rpn_cls = nn.Conv2d(self.feat_channels,
                                 self.num_base_priors * self.cls_out_channels, 1)
        self.rpn_reg = nn.Conv2d(self.feat_channels, self.num_base_priors * 4, 1)

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """Scores [B, A C, H, W] and deltas [B, A 4, H, W] of one level."""
        x = F.relu(self.rpn_conv(x))
        return self.rpn_cls(x), self.rpn_reg(x)

    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             gt_bboxes: list[Tensor], img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, list[Tensor]]:
        """As :meth:`AnchorHead.loss`, without classes: ``loss_rpn_cls``, ``loss_rpn_bbox``."""
        losses = super().loss(cls_scores, bbox_preds, gt_bboxes, None, img_metas,
                              gt_bboxes_ignore)
        return {"loss_rpn_cls": losses["loss_cls"], "loss_rpn_bbox": losses["loss_bbox"]}

    @torch.no_grad()
    def candidates(self, outs: tuple[Any, ...], img_metas: Metas, cfg: Any) -> Candidates:
        """The highest anchors of every level, decoded; the label is the level."""
        cls_scores, bbox_preds = outs[:2]
        sizes = [m.shape[-2:] for m in cls_scores]
        priors = self.prior_generator.grid_priors(sizes, dtype=cls_scores[0].dtype,
                                                  device=cls_scores[0].device)
        shapes = of_images(img_metas, "img_shape")
        levels = []
        for i, (logits, deltas, mine) in enumerate(zip(
                self.flat(cls_scores, self.cls_out_channels), self.flat(bbox_preds, 4), priors)):
            # Of two classes the first is the object: background is the last label.
            scores = logits[..., 0].sigmoid() if self.use_sigmoid_cls else (
                logits.softmax(-1)[..., 0])
            pre = cfg.get("nms_pre", -1)
            scores, rows = scores.topk(
                torch.sym_min(pre, mine.shape[0]) if pre > 0 else mine.shape[0], dim=1)
            boxes = self.bbox_coder.decode(
                mine[rows], deltas.gather(1, rows[..., None].expand(-1, -1, 4)), max_shape=shapes)
            levels.append((boxes, scores, torch.full_like(rows, i)))
        boxes, scores, labels = (torch.cat(part, dim=1) for part in zip(*levels))
        valid = torch.ones_like(labels, dtype=torch.bool)
        least = cfg.get("min_bbox_size", -1)
        if least >= 0:
            valid = (boxes[..., 2:] - boxes[..., :2] > least).all(-1)
        return Candidates(boxes, scores, labels, valid)

    def get_bboxes(self, *outs: Any, img_metas: list[Meta], cfg: Any = None,  # type: ignore
                   rescale: bool = False, with_nms: bool = True) -> list[Tensor]:
        """Proposals and scores ``[n, 5]`` of each image, in pixels of the input."""
        if not with_nms:
            raise ValueError(f"{type(self).__name__}: proposals are always suppressed, got "
                             "with_nms=False")
        return list(self.proposals(outs, img_metas, self.test_cfg if cfg is None else cfg))

    def proposals(self, outs: tuple[Any, ...], img_metas: list[Meta], cfg: Any) -> Proposals:
        """Proposals and scores [B, K, 5], padded: without a host sync."""
        cfg = proposal_settings(cfg)
        found = suppress(self.candidates(outs, img_metas, cfg), cfg["nms"], cfg["max_per_img"])
        return Proposals(found.boxes, found.counts)
