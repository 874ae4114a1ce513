"""What the boxes know, for the masks (SCNet, arXiv 2012.10150)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastdet.runner import BaseModule, auto_fp16

from ...builder import HEADS

__all__ = ["FeatureRelayHead"]


@HEADS.register_module()
class FeatureRelayHead(BaseModule):
    """A row of the box head to a map of a region.

    Args:
        in_channels: of the rows.
        out_conv_channels: of the maps.
        roi_feat_size: of the maps, before they are enlarged.
        scale_factor: by which they are.
        init_cfg: how weights are initialised.
    """

    def __init__(self, in_channels: int = 1024, out_conv_channels: int = 256,
                 roi_feat_size: int = 7, scale_factor: int = 2,
                 init_cfg: Any = dict(type="Kaiming", layer="Linear")) -> None:
        super().__init__(init_cfg)
        self.in_channels = in_channels
        self.out_conv_channels = out_conv_channels
        self.roi_feat_size = roi_feat_size
        self.out_channels = roi_feat_size ** 2 * out_conv_channels
        self.scale_factor = scale_factor
        self.fp16_enabled = False
        self.fc = nn.Linear(in_channels, self.out_channels)
        self.upsample = nn.Upsample(scale_factor=scale_factor, mode="bilinear",
                                    align_corners=True)

    @auto_fp16()
    def forward(self, x: Tensor) -> Tensor | None:
        """Rows [N, in_channels] to [N, out_conv_channels, h, w]; ``None`` where there are none."""
        if len(x) == 0:
            return None
        size = (self.out_conv_channels, self.roi_feat_size, self.roi_feat_size)
        return self.upsample(self.fc(x).view(len(x), *size))
