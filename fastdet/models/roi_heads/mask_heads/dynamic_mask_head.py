"""Masks by convolutions that the proposals make (QueryInst, arXiv 2105.01928)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastdet.cnn import constant_init
from fastdet.core.utils import reduce_mean

from ...builder import HEADS
from ...losses.utils import at_least_float32
from ...utils import build_transformer
from .fcn_mask_head import FCNMaskHead

__all__ = ["DynamicMaskHead"]


@HEADS.register_module()
class DynamicMaskHead(FCNMaskHead):
    """A dynamic convolution of each region before the convolutions of :class:`FCNMaskHead`.

    Args:
        num_convs: convolutions.
        roi_feat_size: of the pooled regions.
        in_channels: of regions and proposals.
        conv_kernel_size: of the convolutions.
        conv_out_channels: of the convolutions.
        num_classes: foreground classes.
        class_agnostic: must be false.
        upsample_cfg: as of :class:`FCNMaskHead`.
        conv_cfg: config of the convolutions.
        norm_cfg: config of the norms.
        dynamic_conv_cfg: config of the dynamic convolution.
        loss_mask: config of the loss, of probabilities.
        kwargs: of :class:`FCNMaskHead`.

    Raises:
        ValueError: ``class_agnostic`` is set.
    """

    def __init__(self, num_convs: int = 4, roi_feat_size: Any = 14, in_channels: int = 256,
                 conv_kernel_size: int = 3, conv_out_channels: int = 256, num_classes: int = 80,
                 class_agnostic: bool = False,
                 upsample_cfg: dict[str, Any] = dict(type="deconv", scale_factor=2),
                 conv_cfg: Any = None, norm_cfg: Any = None,
                 dynamic_conv_cfg: dict[str, Any] = dict(
                     type="DynamicConv", in_channels=256, feat_channels=64, out_channels=256,
                     input_feat_shape=14, with_proj=False,
                     act_cfg=dict(type="ReLU", inplace=True), norm_cfg=dict(type="LN")),
                 loss_mask: dict[str, Any] = dict(type="DiceLoss", loss_weight=8.0),
                 **kwargs: Any) -> None:
        if class_agnostic:
            raise ValueError(f"{type(self).__name__} has a mask for each class, got "
                             "class_agnostic=True")
        super().__init__(num_convs=num_convs, roi_feat_size=roi_feat_size, in_channels=in_channels,
                         conv_kernel_size=conv_kernel_size, conv_out_channels=conv_out_channels,
                         num_classes=num_classes, class_agnostic=class_agnostic,
                         upsample_cfg=upsample_cfg, conv_cfg=conv_cfg, norm_cfg=norm_cfg,
                         loss_mask=loss_mask, **kwargs)
        self.instance_interactive_conv = build_transformer(dynamic_conv_cfg)

    def init_weights(self) -> None:
        """Xavier's uniform distribution for matrices; logits start at zero."""
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)
        constant_init(self.conv_logits, 0.0)

    def forward(self, roi_feat: Tensor, proposal_feat: Tensor) -> Tensor:  # type: ignore[override]
        """Logits [n, C, H, W] of regions [n, in_channels, h, w] and proposals [n, in_channels]."""
        looked = self.instance_interactive_conv(
            proposal_feat.reshape(-1, self.in_channels), roi_feat)
        return super().forward(looked.transpose(1, 2).reshape(roi_feat.shape))

    def loss(self, mask_pred: Tensor, mask_targets: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Loss of each region's mask of its own class.

        Args:
            mask_pred: [P, C, H, W].
            mask_targets: [P, H, W].
            labels: [P].
        """
        mask_pred = at_least_float32(mask_pred)
        total = reduce_mean(mask_pred.new_tensor(float(len(labels)))).clamp(min=1.0)
        if len(mask_pred) == 0:
            return {"loss_mask": mask_pred.sum()}
        own = mask_pred[torch.arange(len(labels), device=labels.device), labels]
        return {"loss_mask": self.loss_mask(own.sigmoid(), mask_targets, avg_factor=total)}
