"""Masks at points (PointRend, arXiv 1912.08193)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.core.bbox.samplers.samples import Samples
from fastdet.ops import point_sample, rel_roi_point_to_rel_img_point
from fastdet.runner import BaseModule

from ...builder import HEADS, build_loss
from ...utils import get_uncertain_point_coords_with_randomness, get_uncertainty

__all__ = ["MaskPointHead"]


@HEADS.register_module()
class MaskPointHead(BaseModule):
    """Linear layers on each point's fine features and coarse prediction.

    Args:
        num_classes: foreground classes.
        num_fcs: linear layers.
        in_channels: of the fine features.
        fc_channels: of the linear layers.
        class_agnostic: one mask for all classes.
        coarse_pred_each_layer: every layer sees the coarse prediction, not the first alone.
        conv_cfg: config of the layers, which are convolutions of size 1.
        norm_cfg: config of the norms.
        act_cfg: config of the activations.
        loss_point: config of the loss.
        init_cfg: how weights are initialised.
    """

    def __init__(self, num_classes: int, num_fcs: int = 3, in_channels: int = 256,
                 fc_channels: int = 256, class_agnostic: bool = False,
                 coarse_pred_each_layer: bool = True, conv_cfg: Any = dict(type="Conv1d"),
                 norm_cfg: Any = None, act_cfg: Any = dict(type="ReLU"),
                 loss_point: dict[str, Any] = dict(type="CrossEntropyLoss", use_mask=True,
                                                   loss_weight=1.0),
                 init_cfg: Any = dict(type="Normal", std=0.001,
                                      override=dict(name="fc_logits"))) -> None:
        super().__init__(init_cfg)
        self.num_fcs = num_fcs
        self.in_channels = in_channels
        self.fc_channels = fc_channels
        self.num_classes = num_classes
        self.class_agnostic = class_agnostic
        self.coarse_pred_each_layer = coarse_pred_each_layer
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.loss_point: Any = build_loss(loss_point)
        width = in_channels + num_classes
        self.fcs = nn.ModuleList()
        for _ in range(num_fcs):
            self.fcs.append(ConvModule(width, fc_channels, 1, conv_cfg=conv_cfg,
                                       norm_cfg=norm_cfg, act_cfg=act_cfg))
            width = fc_channels + (num_classes if coarse_pred_each_layer else 0)
        self.fc_logits = nn.Conv1d(width, 1 if class_agnostic else num_classes, 1)

    def forward(self, fine_grained_feats: Tensor, coarse_feats: Tensor) -> Tensor:
        """Logits [n, C, P] of fine features [n, in_channels, P] and coarse logits [n, C, P]."""
        x = torch.cat([fine_grained_feats, coarse_feats], dim=1)
        for fc in self.fcs:
            x = fc(x)
            if self.coarse_pred_each_layer:
                x = torch.cat([x, coarse_feats], dim=1)
        return self.fc_logits(x)

    def get_targets(self, rois: Tensor, rel_roi_points: Tensor, sampling_results: Any,
                    gt_masks: Any, cfg: Any) -> Tensor:
        """The gts' masks at points, [n, P].

        Args:
            rois: [n, 5], the positives of a batch, image by image.
            rel_roi_points: [n, P, 2] as (x, y), in units of the region.
            sampling_results: :class:`Samples`, or one ``SamplingResult`` of each image.
            gt_masks: of each image.
            cfg: not used.
        """
        if isinstance(sampling_results, Samples):
            sampling_results = sampling_results.positives()
        lengths = [len(r.pos_assigned_gt_inds) for r in sampling_results]
        targets = []
        for roi, points, result, masks in zip(
                rois.split(lengths), rel_roi_points.split(lengths), sampling_results, gt_masks):
            if len(roi) == 0:
                continue
            own = masks.to_tensor(roi.dtype, roi.device)[result.pos_assigned_gt_inds][:, None]
            at = rel_roi_point_to_rel_img_point(roi, points, own)
            targets.append(point_sample(own, at)[:, 0])
        return torch.cat(targets) if targets else rois.new_zeros(rel_roi_points.shape[:2])

    def loss(self, point_pred: Tensor, point_targets: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``loss_point`` of logits [n, C, P], targets [n, P] and classes [n]."""
        if len(point_pred) == 0:  # no positives: a mean of nothing would be NaN
            return {"loss_point": point_pred.sum()}
        if self.class_agnostic:
            labels = torch.zeros_like(labels)
        return {"loss_point": self.loss_point(point_pred, point_targets, labels)}

    def get_roi_rel_points_train(self, mask_pred: Tensor, labels: Tensor, cfg: Any) -> Tensor:
        """Points to train, [n, P, 2] as (x, y) in units of the region.

        Args:
            mask_pred: [n, C, h, w], logits.
            labels: [n], classes.
            cfg: ``num_points``, ``oversample_ratio`` and ``importance_sample_ratio``.
        """
        return get_uncertain_point_coords_with_randomness(
            mask_pred, labels, cfg["num_points"], cfg["oversample_ratio"],
            cfg["importance_sample_ratio"])

    def get_roi_rel_points_test(self, mask_pred: Tensor, pred_label: Tensor,
                                cfg: Any) -> tuple[Tensor, Tensor]:
        """The least certain pixels of masks.

        Args:
            mask_pred: [n, C, h, w], logits.
            pred_label: [n], classes.
            cfg: ``subdivision_num_points``.

        Returns:
            Rows of the flat mask, [n, P], and the pixels' centres, [n, P, 2] as (x, y) in units of
            the region.
        """
        unsure = get_uncertainty(mask_pred, pred_label)
        h, w = unsure.shape[-2:]
        rows = unsure.flatten(1).topk(min(h * w, cfg["subdivision_num_points"]), dim=1).indices
        at = torch.stack([0.5 / w + (rows % w).float() / w, 0.5 / h + (rows // w).float() / h], 2)
        return rows, at
