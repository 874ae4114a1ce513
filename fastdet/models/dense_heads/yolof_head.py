"""YOLOF's head (arXiv 2103.09460): one level, and as many positives for each gt."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import ConvModule, bias_init_with_prob, constant_init, is_norm, normal_init
from fastdet.core.bbox import GroundTruth
from fastdet.core.utils import reduce_mean

from ..builder import HEADS
from ..losses.utils import at_least_float32
from .anchor_head import AnchorHead
from .base_dense_head import Meta

__all__ = ["YOLOFHead"]

INF = 1e8


@HEADS.register_module()
class YOLOFHead(AnchorHead):
    """A short tower for classes, a long one for boxes and objectness.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature map and the towers.
        num_cls_convs: convolutions before the classes.
        num_reg_convs: convolutions before boxes and objectness.
        norm_cfg: config of the norms.
        kwargs: of :class:`AnchorHead`.
    """

    def __init__(self, num_classes: int, in_channels: int, num_cls_convs: int = 2,
                 num_reg_convs: int = 4, norm_cfg: Any = dict(type="BN", requires_grad=True),
                 **kwargs: Any) -> None:
        self.num_cls_convs = num_cls_convs
        self.num_reg_convs = num_reg_convs
        self.norm_cfg = norm_cfg
        super().__init__(num_classes, in_channels, **kwargs)

    def subnet(self, convs: int) -> nn.Sequential:
        """``convs`` convolutions of 3 x 3, each with norm and ReLU."""
        return nn.Sequential(*[
            ConvModule(self.in_channels, self.in_channels, 3, padding=1, norm_cfg=self.norm_cfg)
            for _ in range(convs)])

    def _init_layers(self) -> None:
        self.cls_subnet = self.subnet(self.num_cls_convs)
        self.bbox_subnet = self.subnet(self.num_reg_convs)
        a = self.num_base_priors
        self.cls_score = nn.Conv2d(self.in_channels, a * self.num_classes, 3, padding=1)
        self.bbox_pred = nn.Conv2d(self.in_channels, a * 4, 3, padding=1)
        self.object_pred = nn.Conv2d(self.in_channels, a, 3, padding=1)

    def init_weights(self) -> None:
        """Small normal weights, and a probability of 0.01 for every class."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                normal_init(module, mean=0, std=0.01)
            if is_norm(module):
                constant_init(module, 1)
        nn.init.constant_(self.cls_score.bias, bias_init_with_prob(0.01))  # type: ignore[arg-type]

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """Scores [B, A C, H, W], logits of class and object together, and deltas [B, A 4, H, W]."""
        boxes = self.bbox_subnet(x)
        score = self.cls_score(self.cls_subnet(x)).unflatten(1, (-1, self.num_classes))
        is_object = self.object_pred(boxes)[:, :, None]
        both = score + is_object - torch.log(
            1.0 + score.exp().clamp(max=INF) + is_object.exp().clamp(max=INF))
        return both.flatten(1, 2), self.bbox_pred(boxes)

    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             gt_bboxes: list[Tensor], gt_labels: list[Tensor] | None, img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Tensor]:
        """Losses of the one level.

        Args:
            cls_scores: one map [B, A C, H, W].
            bbox_preds: one map [B, A 4, H, W].
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: of each image.
            gt_bboxes_ignore: not used.

        Returns:
            ``loss_cls`` and ``loss_bbox``, scalars.

        Raises:
            ValueError: there is not one level.
        """
        if len(cls_scores) != 1:
            raise ValueError(f"YOLOFHead works on one level, got {len(cls_scores)}")
        size = cls_scores[0].shape[-2:]
        anchors = self.prior_generator.grid_priors([size], device=cls_scores[0].device)[0]
        valid = self.valid_anchors(anchors, [size], img_metas)
        gts = GroundTruth.pad(gt_bboxes, gt_labels)
        b = len(valid)
        boxes = self.bbox_coder.decode(anchors.repeat(b, 1), self.flattened(bbox_preds, 4)
                                       ).unflatten(0, (b, -1))
        gt_inds, rows, gt_of, counts = self.assigner.assign_batch(boxes.detach(), anchors, gts,
                                                                  valid)
        pos = gt_inds > 0
        labels = torch.where(pos, gts.of(gt_inds)[1], self.num_classes)
        pos_weight = self.train_cfg.get("pos_weight", -1)
        weights = torch.where(pos, pos_weight if pos_weight > 0 else 1.0,
                              (gt_inds == 0).to(boxes.dtype))
        total = reduce_mean(at_least_float32(pos.sum(1).clamp(min=1).sum().to(boxes.dtype)))
        of_class = self.loss_cls(self.flattened(cls_scores, self.cls_out_channels),
                                 labels.flatten(), weights.flatten(), avg_factor=total)
        took = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
        if rows.shape[1] == 0:
            return {"loss_cls": of_class, "loss_bbox": boxes.sum() * 0}
        # What does not count is its own target: finite, of no weight.
        learn = torch.where(counts[..., None], gts.of(gt_of + 1)[0].to(took.dtype), took.detach())
        of_box = self.loss_bbox(took.flatten(0, 1), learn.flatten(0, 1),
                                counts.flatten().to(took.dtype), avg_factor=total)
        return {"loss_cls": of_class, "loss_bbox": of_box}
