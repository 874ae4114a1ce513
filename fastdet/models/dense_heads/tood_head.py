"""TOOD's head (arXiv 2108.07755): classes and boxes from one tower, aligned with each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import ConvModule, Scale, bias_init_with_prob, normal_init
from fastdet.core.bbox import GroundTruth, build_assigner
from fastdet.core.bbox.assigners.centers import box_centers
from fastdet.core.bbox.transforms import distance2bbox
from fastdet.core.utils import multi_apply, reduce_mean
from fastdet.ops import deform_conv2d

from ..builder import HEADS, build_loss
from ..utils import sigmoid_geometric_mean
from .anchor_head import AnchorTargets
from .atss_head import ATSSHead
from .base_dense_head import Meta

__all__ = ["TOODHead", "TaskDecomposition"]


class TaskDecomposition(nn.Module):
    """One task's features from those of all layers, by attention to the layers (eq. 1, 2).

    Args:
        feat_channels: of a layer.
        stacked_convs: layers.
        la_down_rate: by which the attention's hidden channels are fewer.
        conv_cfg: config of the reducing convolution.
        norm_cfg: config of its norm.
    """

    def __init__(self, feat_channels: int, stacked_convs: int, la_down_rate: int = 8,
                 conv_cfg: Any = None, norm_cfg: Any = None) -> None:
        super().__init__()
        self.feat_channels = feat_channels
        self.stacked_convs = stacked_convs
        self.in_channels = feat_channels * stacked_convs
        self.norm_cfg = norm_cfg
        hidden = self.in_channels // la_down_rate
        self.layer_attention = nn.Sequential(
            nn.Conv2d(self.in_channels, hidden, 1), nn.ReLU(inplace=True),
            nn.Conv2d(hidden, stacked_convs, 1), nn.Sigmoid())
        self.reduction_conv: Any = ConvModule(self.in_channels, feat_channels, 1, conv_cfg=conv_cfg,
                                         norm_cfg=norm_cfg, bias=norm_cfg is None)

    def init_weights(self) -> None:
        """Small normal weights."""
        for layer in self.layer_attention:
            if isinstance(layer, nn.Conv2d):
                normal_init(layer, std=0.001)
        normal_init(self.reduction_conv.conv, std=0.01)

    def forward(self, feat: Tensor, avg_feat: Tensor | None = None) -> Tensor:
        """[B, C, H, W] of the layers [B, C L, H, W] and their means [B, C L, 1, 1]."""
        b, _, h, w = feat.shape
        if avg_feat is None:
            avg_feat = F.adaptive_avg_pool2d(feat, (1, 1))
        # Attention times features, then a convolution: the same with the weights scaled.
        attention = self.layer_attention(avg_feat).reshape(b, 1, self.stacked_convs, 1)
        weight = attention * self.reduction_conv.conv.weight.reshape(
            1, self.feat_channels, self.stacked_convs, self.feat_channels)
        out = torch.bmm(weight.flatten(2), feat.flatten(2)).view(b, -1, h, w)
        if self.norm_cfg is not None:
            out = self.reduction_conv.norm(out)
        return self.reduction_conv.activate(out)


@HEADS.register_module()
class TOODHead(ATSSHead):
    """Scores and boxes that look at each other's task.

    Args:
        num_classes: foreground classes.
        in_channels: of the feature maps.
        num_dcn: deformable convolutions at the tower's beginning.
        anchor_type: ``'anchor_free'``, boxes by distances, or ``'anchor_based'``, by deltas.
        initial_loss_cls: config of the classification loss of the first epochs.
        kwargs: of :class:`ATSSHead`; ``train_cfg`` has ``initial_epoch``, ``initial_assigner``,
            ``assigner``, ``alpha`` and ``beta``.

    Raises:
        ValueError: ``anchor_type`` is unknown.
    """

    activated = True

    def __init__(self, num_classes: int, in_channels: int, num_dcn: int = 0,
                 anchor_type: str = "anchor_free",
                 initial_loss_cls: dict[str, Any] = dict(
                     type="FocalLoss", use_sigmoid=True, activated=True, gamma=2.0, alpha=0.25,
                     loss_weight=1.0),
                 **kwargs: Any) -> None:
        if anchor_type not in ("anchor_free", "anchor_based"):
            raise ValueError("TOODHead: anchor_type must be anchor_free or anchor_based, got "
                             f"{anchor_type!r}")
        self.num_dcn = num_dcn
        self.anchor_type = anchor_type
        #: The epoch, which a hook sets.
        self.epoch = 0
        super().__init__(num_classes, in_channels, **kwargs)
        if self.train_cfg:
            self.initial_epoch = self.train_cfg["initial_epoch"]
            self.initial_assigner: Any = build_assigner(self.train_cfg["initial_assigner"])
            self.initial_loss_cls = build_loss(initial_loss_cls)
            self.alignment_assigner: Any = self.assigner
            self.assigner = self.initial_assigner
            self.alpha = self.train_cfg["alpha"]
            self.beta = self.train_cfg["beta"]

    def _init_layers(self) -> None:
        self.relu = nn.ReLU(inplace=True)
        self.inter_convs = self.tower()
        self.cls_decomp, self.reg_decomp = (
            TaskDecomposition(self.feat_channels, self.stacked_convs, self.stacked_convs * 8,
                              self.conv_cfg, self.norm_cfg) for _ in range(2))
        self.tood_cls = nn.Conv2d(self.feat_channels, self.num_base_priors * self.cls_out_channels,
                                  3, padding=1)
        self.tood_reg = nn.Conv2d(self.feat_channels, self.num_base_priors * 4, 3, padding=1)
        self.cls_prob_module, self.reg_offset_module = (
            nn.Sequential(nn.Conv2d(self.feat_channels * self.stacked_convs,
                                    self.feat_channels // 4, 1), nn.ReLU(inplace=True),
                          nn.Conv2d(self.feat_channels // 4, channels, 3, padding=1))
            for channels in (1, 4 * 2))
        self.scales = nn.ModuleList([Scale(1.0) for _ in self.prior_generator.strides])

    def conv_at(self, i: int) -> Any:
        """Deformable where it is one of the first ``num_dcn``."""
        return {"type": "DCNv2", "deform_groups": 4} if i < self.num_dcn else self.conv_cfg

    def init_weights(self) -> None:
        """Small normal weights, and a probability of 0.01 for every class."""
        prior = bias_init_with_prob(0.01)
        for conv in self.inter_convs:
            normal_init(conv.conv, std=0.01)  # type: ignore[arg-type]
        for layers, std in ((self.cls_prob_module, 0.01), (self.reg_offset_module, 0.001)):
            for layer in layers:
                if isinstance(layer, nn.Conv2d):
                    normal_init(layer, std=std)
        normal_init(self.cls_prob_module[-1], std=0.01, bias=prior)
        self.cls_decomp.init_weights()
        self.reg_decomp.init_weights()
        normal_init(self.tood_cls, std=0.01, bias=prior)
        normal_init(self.tood_reg, std=0.01)

    def anchor_center(self, anchors: Tensor) -> Tensor:
        """Centres [..., 2] of anchors [..., 4]."""
        return box_centers(anchors)

    def forward(self, feats: Sequence[Tensor]) -> tuple[list[Tensor], ...]:
        """Probabilities [B, C, H, W], and corners [B, 4, H, W] in strides, of every level."""
        return multi_apply(self.forward_single, feats, self.scales, range(len(feats)),
                           self.prior_generator.strides)

    def forward_single(self, x: Tensor, scale: nn.Module, level: int,  # type: ignore[override]
                       stride: Sequence[int]) -> tuple[Tensor, ...]:
        """Probabilities and corners in strides of one level."""
        b, _, h, w = x.shape
        anchors = self.prior_generator.single_level_grid_priors((h, w), level, device=x.device)
        anchors = anchors.repeat(b, 1)
        layers = []
        for conv in self.inter_convs:
            x = conv(x)
            layers.append(x)
        feat = torch.cat(layers, 1)
        mean = F.adaptive_avg_pool2d(feat, (1, 1))
        score = sigmoid_geometric_mean(self.tood_cls(self.cls_decomp(feat, mean)),
                                       self.cls_prob_module(feat).expand(
                                           -1, self.tood_cls.out_channels, -1, -1))
        pred = self.tood_reg(self.reg_decomp(feat, mean))
        if self.anchor_type == "anchor_free":
            off = scale(pred.exp()).float().permute(0, 2, 3, 1).reshape(-1, 4)
            boxes = distance2bbox(self.anchor_center(anchors) / stride[0], off)
        else:
            off = scale(pred).float().permute(0, 2, 3, 1).reshape(-1, 4)
            boxes = self.bbox_coder.decode(anchors, off) / stride[0]
        boxes = boxes.view(b, h, w, 4).permute(0, 3, 1, 2).contiguous()
        moved = self.deform_sampling(boxes, self.reg_offset_module(feat).contiguous())
        # Each side comes from a place of its own: a box that is inside out stays as it was.
        wrong = (moved[:, :2] > moved[:, 2:]).any(1, keepdim=True)
        return score, torch.where(wrong, boxes, moved)

    def deform_sampling(self, feat: Tensor, offset: Tensor) -> Tensor:
        """Each channel of [B, C, H, W] at offsets [B, 2 C, H, W] of its own, bilinearly."""
        channels = feat.shape[1]
        return deform_conv2d(feat, offset, feat.new_ones(channels, 1, 1, 1), 1, 0, 1, channels,
                             channels)

    def decoded(self, priors: Tensor, pred: Tensor, level: int, max_shape: Any) -> Tensor:
        return pred * self.prior_generator.strides[level][0]  # not clipped

    # --- training ---------------------------------------------------------------------------
    def loss(self, cls_scores: list[Tensor], bbox_preds: list[Tensor],  # type: ignore[override]
             gt_bboxes: list[Tensor], gt_labels: list[Tensor], img_metas: list[Meta],
             gt_bboxes_ignore: list[Tensor] | None = None) -> dict[str, list[Tensor]]:
        """Losses of each level.

        Args:
            cls_scores: [B, C, H, W] of each level, probabilities.
            bbox_preds: [B, 4, H, W] of each level, corners in strides.
            gt_bboxes: [G, 4] of each image.
            gt_labels: [G] of each image.
            img_metas: of each image.
            gt_bboxes_ignore: [g, 4] of each image.

        Returns:
            ``loss_cls`` and ``loss_bbox``, lists of scalars.
        """
        sizes = [m.shape[-2:] for m in cls_scores]
        levels = self.prior_generator.grid_priors(sizes, device=cls_scores[0].device)
        anchors, per_level = torch.cat(levels), [len(level) for level in levels]
        valid = self.valid_anchors(anchors, sizes, img_metas)
        gts = GroundTruth.pad(gt_bboxes, gt_labels, gt_bboxes_ignore)
        strides = [stride[0] for stride in self.prior_generator.strides]
        if self.epoch < self.initial_epoch:
            targets = self.targets(anchors, per_level, valid, gts)
            alignment = targets.box_weights[..., 0]
        else:
            targets, alignment = self.aligned_targets(
                self.flattened(cls_scores, self.cls_out_channels),
                self.flattened([m * s for m, s in zip(bbox_preds, strides)], 4),
                anchors, valid, gts)
        of_class, of_box, for_class, for_box = multi_apply(
            self.loss_single, levels, cls_scores, bbox_preds,
            *(part.split(per_level, dim=1) for part in (*targets[:3], alignment)), strides)
        for_all = reduce_mean(torch.stack(for_class).sum()).clamp(min=1)
        for_boxes = reduce_mean(torch.stack(for_box).sum()).clamp(min=1)
        return {"loss_cls": [loss / for_all for loss in of_class],
                "loss_bbox": [loss / for_boxes for loss in of_box]}

    @torch.no_grad()
    def aligned_targets(self, score: Tensor, boxes: Tensor, anchors: Tensor, valid: Tensor,
                        gts: GroundTruth) -> tuple[AnchorTargets, Tensor]:
        """Targets by the alignment of the predictions (section 3.2), and the alignment [B, N].

        Args:
            score: [B N, C], probabilities.
            boxes: [B N, 4], predicted, in pixels.
            anchors: [N, 4].
            valid: [B, N].
            gts: of the batch.
        """
        b, g = gts.labels.shape
        gt_inds, ious, metrics = self.alignment_assigner.assign_batch(
            score.unflatten(0, (b, -1)), boxes.unflatten(0, (b, -1)), anchors, gts, valid,
            self.alpha, self.beta)
        pos = gt_inds > 0
        # Within a gt the best alignment becomes the best overlap.
        of_gt = torch.where(pos, gt_inds, 0)
        most = [torch.zeros(b, g + 1, dtype=x.dtype, device=x.device).scatter_reduce_(
            1, of_gt, torch.where(pos, x, 0.0), "amax").gather(1, of_gt) for x in (metrics, ious)]
        alignment = torch.where(pos, metrics / (most[0] + 10e-8) * most[1], 0.0)
        learn, labels = gts.of(gt_inds)
        pos_weight = self.train_cfg.get("pos_weight", -1)
        weights = torch.where(pos, pos_weight if pos_weight > 0 else 1.0,
                              (gt_inds == 0).to(anchors.dtype))
        learn = torch.where(pos[..., None], learn.to(anchors.dtype), 0.0)
        return AnchorTargets(torch.where(pos, labels, self.num_classes), weights, learn,
                             pos[..., None].to(learn.dtype).expand_as(learn),
                             pos.sum(), (gt_inds == 0).sum(), gt_inds), alignment

    def loss_single(self, anchors: Tensor, cls_score: Tensor, bbox_pred: Tensor,  # type: ignore
                    labels: Tensor, label_weights: Tensor, bbox_targets: Tensor,
                    alignment_metrics: Tensor, stride: float) -> tuple[Tensor, ...]:
        """Losses of one level, not averaged, and what they are to be divided by.

        Args:
            anchors: [n, 4].
            cls_score: [B, C, H, W].
            bbox_pred: [B, 4, H, W], in strides.
            labels: [B, n].
            label_weights: [B, n].
            bbox_targets: [B, n, 4], in pixels.
            alignment_metrics: [B, n].
            stride: of the level.
        """
        labels, alignment = labels.flatten(), alignment_metrics.flatten()
        score = cls_score.permute(0, 2, 3, 1).reshape(-1, self.cls_out_channels)
        first = self.epoch < self.initial_epoch
        if first:
            of_class = self.initial_loss_cls(score, labels, label_weights.flatten(),
                                             avg_factor=1.0)
        else:
            of_class = self.loss_cls(score, (labels, alignment), label_weights.flatten(),
                                     avg_factor=1.0)
        pos = (labels >= 0) & (labels < self.num_classes)
        own = anchors.repeat(len(cls_score), 1).to(bbox_pred.dtype)
        learn = torch.where(pos[:, None], bbox_targets.flatten(0, 1).to(own.dtype), own)
        weight = self.centerness_target(own, learn) if first else alignment
        weight = torch.where(pos, weight, 0.0)
        pred = torch.where(pos[:, None], bbox_pred.permute(0, 2, 3, 1).reshape(-1, 4),
                           own / stride)
        of_box = self.loss_bbox(pred, learn / stride, weight=weight, avg_factor=1.0)
        return of_class, of_box, alignment.sum(), weight.sum()
