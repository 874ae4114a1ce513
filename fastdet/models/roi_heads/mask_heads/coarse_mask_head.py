"""A small mask that points refine (PointRend, arXiv 1912.08193)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fastdet.cnn import ConvModule
from fastdet.runner import ModuleList, auto_fp16

from ...builder import HEADS
from .fcn_mask_head import FCNMaskHead

__all__ = ["CoarseMaskHead"]


@HEADS.register_module()
class CoarseMaskHead(FCNMaskHead):
    """Masks by linear layers, without upsampling.

    Args:
        num_convs: convolutions.
        num_fcs: linear layers.
        fc_out_channels: of the linear layers.
        downsample_factor: how much smaller a mask is than the region.
        init_cfg: how weights are initialised.
        arg: of :class:`FCNMaskHead`.
        kwarg: of :class:`FCNMaskHead`.

    Raises:
        ValueError: there are no linear layers, or the factor is below 1.
    """

    def __init__(self, num_convs: int = 0, num_fcs: int = 2, fc_out_channels: int = 1024,
                 downsample_factor: int = 2,
                 init_cfg: Any = dict(type="Xavier", override=[
                     dict(name="fcs"), dict(type="Constant", val=0.001, name="fc_logits")]),
                 *arg: Any, **kwarg: Any) -> None:
        if num_fcs <= 0 or downsample_factor < 1:
            raise ValueError("CoarseMaskHead: num_fcs and downsample_factor must be positive, got "
                             f"{num_fcs} and {downsample_factor}")
        kwarg.update(num_convs=num_convs, upsample_cfg=dict(type=None), init_cfg=None)
        super().__init__(*arg, **kwarg)
        self.init_cfg = init_cfg
        self.num_fcs = num_fcs
        self.fc_out_channels = fc_out_channels
        self.downsample_factor = downsample_factor
        self.output_size = (self.roi_feat_size[0] // downsample_factor,
                            self.roi_feat_size[1] // downsample_factor)
        self.output_area = self.output_size[0] * self.output_size[1]
        del self.conv_logits
        width = self.conv_out_channels
        self.downsample_conv: Any = None
        if downsample_factor > 1:
            self.downsample_conv = ConvModule(
                width, width, downsample_factor, downsample_factor, padding=0,
                conv_cfg=self.conv_cfg, norm_cfg=self.norm_cfg)
        self.fcs = ModuleList([
            nn.Linear(width * self.output_area if i == 0 else fc_out_channels, fc_out_channels)
            for i in range(num_fcs)])
        self.fc_logits = nn.Linear(fc_out_channels, self.num_classes * self.output_area)

    def init_weights(self) -> None:
        """By ``init_cfg`` alone."""
        super(FCNMaskHead, self).init_weights()

    @auto_fp16()
    def forward(self, x: Tensor) -> Tensor:
        """Logits [n, C, h / factor, w / factor] of regions [n, in_channels, h, w]."""
        x = self.features(x)
        if self.downsample_conv is not None:
            x = self.downsample_conv(x)
        x = x.flatten(1)
        for fc in self.fcs:
            x = self.relu(fc(x))
        return self.fc_logits(x).view(len(x), self.num_classes, *self.output_size)
