"""How good a mask is (Mask Scoring R-CNN, arXiv 1903.00241)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from fastdet.core.bbox.samplers.samples import Samples
from fastdet.runner import BaseModule, ModuleList, force_fp32

from ...builder import HEADS, build_loss

__all__ = ["MaskIoUHead"]


@HEADS.register_module()
class MaskIoUHead(BaseModule):
    """The IoU of a mask and its gt, from the region and the mask.

    Args:
        num_convs: convolutions, the last of stride 2.
        num_fcs: linear layers.
        roi_feat_size: of the pooled regions.
        in_channels: of the pooled regions.
        conv_out_channels: of the convolutions.
        fc_out_channels: of the linear layers.
        num_classes: foreground classes.
        loss_iou: config of the loss.
        init_cfg: how weights are initialised.
    """

    def __init__(self, num_convs: int = 4, num_fcs: int = 2, roi_feat_size: Any = 14,
                 in_channels: int = 256, conv_out_channels: int = 256,
                 fc_out_channels: int = 1024, num_classes: int = 80,
                 loss_iou: dict[str, Any] = dict(type="MSELoss", loss_weight=0.5),
                 init_cfg: Any = [
                     dict(type="Kaiming", override=dict(name="convs")),
                     dict(type="Caffe2Xavier", override=dict(name="fcs")),
                     dict(type="Normal", std=0.01, override=dict(name="fc_mask_iou"))]) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.conv_out_channels = conv_out_channels
        self.fc_out_channels = fc_out_channels
        self.num_classes = num_classes
        self.fp16_enabled = False
        # One more channel: the mask.
        self.convs = ModuleList([
            nn.Conv2d(in_channels + 1 if i == 0 else conv_out_channels, conv_out_channels, 3,
                      stride=2 if i == num_convs - 1 else 1, padding=1)
            for i in range(num_convs)])
        height, width = _pair(roi_feat_size)
        area = (height // 2) * (width // 2)
        self.fcs = ModuleList([
            nn.Linear(conv_out_channels * area if i == 0 else fc_out_channels, fc_out_channels)
            for i in range(num_fcs)])
        self.fc_mask_iou = nn.Linear(fc_out_channels, num_classes)
        self.relu = nn.ReLU()
        self.max_pool = nn.MaxPool2d(2, 2)
        self.loss_iou: Any = build_loss(loss_iou)

    def forward(self, mask_feat: Tensor, mask_pred: Tensor) -> Tensor:
        """IoUs [N, num_classes] of regions [N, C, h, w] and mask logits [N, 2 h, 2 w]."""
        x = torch.cat([mask_feat, self.max_pool(mask_pred.sigmoid()[:, None])], dim=1)
        for conv in self.convs:
            x = self.relu(conv(x))
        x = x.flatten(1)
        for fc in self.fcs:
            x = self.relu(fc(x))
        return self.fc_mask_iou(x)

    @force_fp32(apply_to=("mask_iou_pred",))
    def loss(self, mask_iou_pred: Tensor, mask_iou_targets: Tensor) -> dict[str, Tensor]:
        """``loss_mask_iou`` of IoUs [P] whose target is above zero."""
        rows = mask_iou_targets > 0
        if not rows.any():
            return {"loss_mask_iou": mask_iou_pred.sum() * 0}
        return {"loss_mask_iou": self.loss_iou(mask_iou_pred[rows], mask_iou_targets[rows])}

    @force_fp32(apply_to=("mask_pred",))
    def get_targets(self, sampling_results: Any, gt_masks: Any, mask_pred: Tensor,
                    mask_targets: Tensor, rcnn_train_cfg: Any) -> Tensor:
        """IoUs [P] of the predicted masks and the whole of their gts.

        Args:
            sampling_results: :class:`Samples`, or one ``SamplingResult`` of each image.
            gt_masks: of each image.
            mask_pred: [P, h, w], logits.
            mask_targets: [P, h, w], the part of the gt in each region.
            rcnn_train_cfg: ``mask_thr_binary``, which is held against the logits.
        """
        if isinstance(sampling_results, Samples):
            sampling_results = sampling_results.positives()
        shares = torch.cat([
            self._area_ratio(r.pos_bboxes, r.pos_assigned_gt_inds, masks)
            for r, masks in zip(sampling_results, gt_masks)])
        found = (mask_pred > rcnn_train_cfg["mask_thr_binary"]).float()
        overlap = (found * mask_targets).sum((-1, -2))
        whole = mask_targets.sum((-1, -2)) / (shares + 1e-7)
        return overlap / (found.sum((-1, -2)) + whole - overlap)

    @staticmethod
    def _area_ratio(boxes: Tensor, inds: Tensor, gt_masks: Any) -> Tensor:
        """[p], the share of each gt's mask that is in its region."""
        if len(boxes) == 0:
            return boxes.new_zeros((0,))
        areas = gt_masks.areas
        ratios = [gt_masks[[i]].crop(box).areas[0] / (areas[i] + 1e-7)
                  for box, i in zip(boxes.cpu().numpy().astype(np.int32), inds.tolist())]
        return torch.from_numpy(np.stack(ratios)).float().to(boxes.device)

    @force_fp32(apply_to=("mask_iou_pred",))
    def get_mask_scores(self, mask_iou_pred: Tensor, det_bboxes: Tensor,
                        det_labels: Tensor) -> list[np.ndarray]:
        """Of each class the scores of its masks: IoU times the score of the box.

        Args:
            mask_iou_pred: [n, num_classes].
            det_bboxes: [n, 5].
            det_labels: [n].
        """
        own = mask_iou_pred.gather(1, det_labels[:, None])[:, 0] * det_bboxes[:, -1]
        scores, labels = own.cpu().numpy(), det_labels.cpu().numpy()
        return [scores[labels == i] for i in range(self.num_classes)]
