"""Masks of regions by convolutions (Mask R-CNN, arXiv 1703.06870)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from fastdet.cnn import ConvModule, build_conv_layer, build_upsample_layer
from fastdet.core.bbox.samplers.samples import Samples
from fastdet.core.mask import mask_target
from fastdet.runner import BaseModule, ModuleList, auto_fp16, force_fp32

from ...builder import HEADS, build_loss
from .paste import paste_masks

__all__ = ["FCNMaskHead"]


@HEADS.register_module()
class FCNMaskHead(BaseModule):
    """Convolutions, one upsampling, and a mask for each class.

    Args:
        num_convs: convolutions.
        roi_feat_size: of the pooled regions.
        in_channels: of the pooled regions.
        conv_kernel_size: of the convolutions.
        conv_out_channels: of the convolutions.
        num_classes: foreground classes.
        class_agnostic: one mask for all classes.
        upsample_cfg: ``type`` (``None``, ``'deconv'``, ``'nearest'``, ``'bilinear'``,
            ``'carafe'``) and its arguments.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        predictor_cfg: config of the last convolution.
        loss_mask: config of the loss.
        init_cfg: must be ``None``; ``init_weights`` has its own rules.

    Raises:
        ValueError: ``upsample_cfg`` is unknown, or ``init_cfg`` is given.
    """

    loss_mask: Any
    convs: Any
    upsample: Any
    conv_logits: Any

    def __init__(self, num_convs: int = 4, roi_feat_size: Any = 14, in_channels: int = 256,
                 conv_kernel_size: int = 3, conv_out_channels: int = 256, num_classes: int = 80,
                 class_agnostic: bool = False,
                 upsample_cfg: dict[str, Any] = dict(type="deconv", scale_factor=2),
                 conv_cfg: Any = None, norm_cfg: Any = None,
                 predictor_cfg: dict[str, Any] = dict(type="Conv"),
                 loss_mask: dict[str, Any] = dict(type="CrossEntropyLoss", use_mask=True,
                                                  loss_weight=1.0),
                 init_cfg: Any = None) -> None:
        if init_cfg is not None:
            raise ValueError(f"{type(self).__name__} initialises its weights itself, got "
                             f"init_cfg={init_cfg!r}")
        super().__init__(init_cfg)
        self.upsample_cfg = dict(upsample_cfg)
        kinds = (None, "deconv", "nearest", "bilinear", "carafe")
        if self.upsample_cfg["type"] not in kinds:
            raise ValueError(f"{type(self).__name__}: upsample_cfg's type must be one of "
                             f"{', '.join(map(str, kinds))}, got {self.upsample_cfg['type']!r}")
        self.num_convs = num_convs
        self.roi_feat_size = _pair(roi_feat_size)
        self.in_channels = in_channels
        self.conv_kernel_size = conv_kernel_size
        self.conv_out_channels = conv_out_channels
        self.upsample_method = self.upsample_cfg.get("type")
        self.scale_factor = self.upsample_cfg.pop("scale_factor", None)
        self.num_classes = num_classes
        self.class_agnostic = class_agnostic
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg
        self.predictor_cfg = predictor_cfg
        self.fp16_enabled = False
        self.loss_mask = build_loss(loss_mask)
        self.convs = ModuleList([
            ConvModule(in_channels if i == 0 else conv_out_channels, conv_out_channels,
                       conv_kernel_size, padding=(conv_kernel_size - 1) // 2, conv_cfg=conv_cfg,
                       norm_cfg=norm_cfg) for i in range(num_convs)])
        width = conv_out_channels if num_convs > 0 else in_channels
        self.upsample = self._upsampling(width)
        if self.upsample_method == "deconv":
            width = conv_out_channels
        self.conv_logits = build_conv_layer(predictor_cfg, width,
                                            1 if class_agnostic else num_classes, 1)
        self.relu = nn.ReLU(inplace=True)
        self.debug_imgs = None

    def _upsampling(self, width: int) -> nn.Module | None:
        cfg, kind = self.upsample_cfg, self.upsample_method
        if kind is None:
            return None
        if kind == "deconv":
            cfg = {**cfg, "in_channels": width, "out_channels": self.conv_out_channels,
                   "kernel_size": self.scale_factor, "stride": self.scale_factor}
        elif kind == "carafe":
            cfg = {**cfg, "channels": width, "scale_factor": self.scale_factor}
        else:
            cfg = {**cfg, "scale_factor": self.scale_factor, "mode": kind,
                   "align_corners": None if kind == "nearest" else False}
        return build_upsample_layer(cfg)

    def init_weights(self) -> None:
        """Kaiming for the upsampling and the last convolution, CARAFE's own where it is used."""
        super().init_weights()
        for module in (self.upsample, self.conv_logits):
            if module is None:
                continue
            if hasattr(module, "init_weights") and not hasattr(module, "weight"):
                module.init_weights()
            elif hasattr(module, "weight") and hasattr(module, "bias"):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                nn.init.constant_(module.bias, 0)

    @auto_fp16()
    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, C, H, W] of regions [n, in_channels, h, w]."""
        return self.logits(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """The convolutions, [n, in_channels, h, w] to [n, conv_out_channels, h, w]."""
        for conv in self.convs:
            x = conv(x)
        return x

    def logits(self, x: Tensor) -> Tensor:
        """What comes after the convolutions."""
        if self.upsample is not None:
            x = self.upsample(x)
            if self.upsample_method == "deconv":
                x = self.relu(x)
        return self.conv_logits(x)

    def get_targets(self, sampling_results: Any, gt_masks: Any, rcnn_train_cfg: Any) -> Any:
        """Targets [P, H, W] of the positives of a batch.

        Args:
            sampling_results: :class:`Samples`, or one ``SamplingResult`` of each image.
            gt_masks: of each image.
            rcnn_train_cfg: ``mask_size``.
        """
        if isinstance(sampling_results, Samples):
            sampling_results = sampling_results.positives()
        return mask_target([r.pos_bboxes for r in sampling_results],
                           [r.pos_assigned_gt_inds for r in sampling_results], gt_masks,
                           rcnn_train_cfg)

    @force_fp32(apply_to=("mask_pred",))
    def loss(self, mask_pred: Tensor, mask_targets: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Loss of each region's mask of its own class.

        Args:
            mask_pred: [P, C, H, W].
            mask_targets: [P, H, W].
            labels: [P].
        """
        if mask_pred.size(0) == 0:
            return {"loss_mask": mask_pred.sum()}
        if self.class_agnostic:
            labels = torch.zeros_like(labels)
        return {"loss_mask": self.loss_mask(mask_pred, mask_targets, labels)}

    def get_seg_masks(self, mask_pred: Any, det_bboxes: Tensor, det_labels: Tensor,
                      rcnn_test_cfg: Any, ori_shape: Any, scale_factor: Any,
                      rescale: bool) -> list[list[np.ndarray]]:
        """Masks of one image, in the image.

        Args:
            mask_pred: [n, C, H, W], logits; or an array of probabilities, from several views.
            det_bboxes: [n, 4 or 5], in pixels of the input.
            det_labels: [n].
            rcnn_test_cfg: ``mask_thr_binary``.
            ori_shape: (height, width, ...) of the original image.
            scale_factor: (w, h, w, h), or a number.
            rescale: masks are of the original image.

        Returns:
            Of each class a list of [h, w] masks.
        """
        pred = mask_pred.sigmoid() if isinstance(mask_pred, Tensor) else det_bboxes.new_tensor(
            mask_pred)
        boxes = det_bboxes[:, :4]
        factor = boxes.new_tensor(scale_factor)
        if factor.dim() == 0:
            warnings.warn("scale_factor of a number is deprecated, give (w, h, w, h)",
                          stacklevel=2)
            factor = factor.repeat(4)
        if rescale:
            img_h, img_w = int(ori_shape[0]), int(ori_shape[1])
            boxes = boxes / factor.to(boxes)
        else:
            w_scale, h_scale = factor[0].item(), factor[1].item()
            img_h = int(np.round(ori_shape[0] * h_scale).astype(np.int32))
            img_w = int(np.round(ori_shape[1] * w_scale).astype(np.int32))
        result: list[list[np.ndarray]] = [[] for _ in range(self.num_classes)]
        if len(boxes) == 0:
            return result
        if not self.class_agnostic:
            pred = pred[torch.arange(len(pred), device=pred.device), det_labels][:, None]
        masks = paste_masks(pred, boxes, img_h, img_w, rcnn_test_cfg["mask_thr_binary"])
        for label, mask in zip(det_labels.tolist(), masks):
            result[label].append(mask)
        return result
