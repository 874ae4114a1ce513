"""SSD's head (arXiv 1512.02325): anchors on six levels, the hardest negatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import ConvModule, DepthwiseSeparableConvModule
from fastdet.core.utils import multi_apply

from ..builder import HEADS
from ..losses import smooth_l1_loss
from ..losses.utils import at_least_float32
from .anchor_head import AnchorHead, AnchorTargets
from .base_dense_head import Meta

__all__ = ["SSDHead"]


@HEADS.register_module()
class SSDHead(AnchorHead):
    """A convolution for classes and one for boxes at each level.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature map of each level.
        stacked_convs: convolutions before them.
        feat_channels: of hidden maps.
        use_depthwise: convolutions are depthwise, then pointwise (SSDLite).
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        act_cfg: config of the activations.
        anchor_generator: its config.
        bbox_coder: its config.
        reg_decoded_bbox: the box loss is on boxes in pixels, not on deltas.
        train_cfg: ``assigner``, ``allowed_border``, ``pos_weight``, ``neg_pos_ratio``,
            ``smoothl1_beta``.
        test_cfg: ``nms_pre``, ``score_thr``, ``nms``, ``max_per_img``.
        init_cfg: how weights are initialised.
    """

    may_sample = False  # the hardest negatives are chosen by their loss

    def __init__(self, num_classes: int = 80,
                 in_channels: Sequence[int] = (512, 1024, 512, 256, 256, 256),
                 stacked_convs: int = 0, feat_channels: int = 256, use_depthwise: bool = False,
                 conv_cfg: Any = None, norm_cfg: Any = None, act_cfg: Any = None,
                 anchor_generator: dict[str, Any] = dict(
                     type="SSDAnchorGenerator", scale_major=False, input_size=300,
                     strides=[8, 16, 32, 64, 100, 300],
                     ratios=([2], [2, 3], [2, 3], [2, 3], [2], [2]),
                     basesize_ratio_range=(0.1, 0.9)),
                 bbox_coder: dict[str, Any] = dict(
                     type="DeltaXYWHBBoxCoder", clip_border=True,
                     target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[1.0, 1.0, 1.0, 1.0]),
                 reg_decoded_bbox: bool = False, train_cfg: Any = None, test_cfg: Any = None,
                 init_cfg: Any = dict(type="Xavier", layer="Conv2d", distribution="uniform",
                                      bias=0)) -> None:
        self.stacked_convs = stacked_convs
        self.use_depthwise = use_depthwise
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.act_cfg = act_cfg
        super().__init__(
            num_classes, in_channels, feat_channels, anchor_generator,  # type: ignore[arg-type]
            bbox_coder, reg_decoded_bbox, loss_cls={"type": "CrossEntropyLoss"},
            loss_bbox={"type": "SmoothL1Loss"}, train_cfg=train_cfg, test_cfg=test_cfg,
            init_cfg=init_cfg)

    def branch(self, channels: int, out_channels: int) -> nn.Sequential:
        """The layers of one level that end in ``out_channels`` numbers."""
        cfgs = {"conv_cfg": self.conv_cfg, "norm_cfg": self.norm_cfg, "act_cfg": self.act_cfg}
        kind = DepthwiseSeparableConvModule if self.use_depthwise else ConvModule
        layers: list[nn.Module] = []
        for _ in range(self.stacked_convs):
            layers.append(kind(channels, self.feat_channels, 3, padding=1, **cfgs))
            channels = self.feat_channels
        if self.use_depthwise:
            layers.append(ConvModule(channels, channels, 3, padding=1, groups=channels, **cfgs))
        size = 1 if self.use_depthwise else 3
        layers.append(nn.Conv2d(channels, out_channels, size, padding=size // 2))
        return nn.Sequential(*layers)

    def _init_layers(self) -> None:
        self.num_base_priors = self.prior_generator.num_base_priors
        each: Any = list(zip(self.in_channels, self.num_base_priors))  # type: ignore
        self.cls_convs = nn.ModuleList([self.branch(c, a * self.cls_out_channels)
                                        for c, a in each])
        self.reg_convs = nn.ModuleList([self.branch(c, a * 4) for c, a in each])

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Scores [B, A (C + 1), H, W] and deltas [B, A 4, H, W] of every level."""
        return multi_apply(lambda x, cls_conv, reg_conv: (cls_conv(x), reg_conv(x)),
                           feats, self.cls_convs, self.reg_convs)

    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             gt_bboxes: list[Tensor], gt_labels: list[Tensor] | None, img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, Any]:
        """Losses of each image.

        Args:
            cls_scores: [B, A (C + 1), H, W] of each level.
            bbox_preds: [B, A 4, H, W] of each level.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: of each image.
            gt_bboxes_ignore: [g, 4] of each image.

        Returns:
            ``loss_cls`` and ``loss_bbox``, lists of scalars.
        """
        levels, targets = self.batch_targets(cls_scores, gt_bboxes, gt_labels, img_metas,
                                             gt_bboxes_ignore)
        return self.losses(torch.cat(levels), self.flattened(cls_scores, self.cls_out_channels),
                           self.flattened(bbox_preds, 4), targets)

    def losses(self, anchors: Tensor, score: Tensor, pred: Tensor,
               targets: AnchorTargets) -> dict[str, Any]:
        """Losses of each image.

        Args:
            anchors: [N, 4].
            score: [B N, C + 1].
            pred: [B N, 4].
            targets: of the batch.
        """
        b = len(targets.labels)
        total = at_least_float32(targets.num_pos.to(score.dtype))
        each = (F.cross_entropy(score, targets.labels.flatten(), reduction="none")
                * targets.label_weights.flatten()).view(b, -1)
        pos = targets.labels < self.num_classes
        # Of the negatives, the hardest, so many for each positive.
        hardest = torch.where(pos, 0.0, each).sort(dim=1, descending=True).values
        counts = (self.train_cfg["neg_pos_ratio"] * pos.sum(1, keepdim=True)).long()
        kept = torch.arange(each.shape[1], device=each.device) < counts
        of_class = (torch.where(pos, each, 0.0) + torch.where(kept, hardest, 0.0)).sum(1) / total
        if self.reg_decoded_bbox:
            pred = self.bbox_coder.decode(anchors.repeat(b, 1), pred)
        of_box = smooth_l1_loss(
            pred, targets.boxes.flatten(0, 1), targets.box_weights.flatten(0, 1),
            beta=self.train_cfg["smoothl1_beta"], reduction="none")
        factor = total + torch.finfo(torch.float32).eps  # as an average factor of the losses has
        of_box = of_box.view(b, -1).sum(1) / factor
        return {"loss_cls": [*of_class[:, None]], "loss_bbox": [*of_box]}
