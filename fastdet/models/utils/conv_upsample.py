"""Convolutions with upsampling between them, as the heads of panoptic segmentation stack them."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from fastdet.cnn import ConvModule
from fastdet.runner import BaseModule, ModuleList

__all__ = ["ConvUpsample"]


class ConvUpsample(BaseModule):
    """3x3 convolutions, the first of them followed by bilinear upsampling to twice the size.

    Args:
        in_channels: channels of the input.
        inner_channels: channels of every convolution's output.
        num_layers: number of convolutions.
        num_upsample: how many of them are followed by upsampling; ``num_layers`` by default.
        conv_cfg: config of the convolutions; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations; ``None`` for none.
        init_cfg: the initialiser's config.
        **kwargs: further arguments of every :class:`fastdet.cnn.ConvModule`.

    Raises:
        ValueError: ``num_upsample`` is above ``num_layers``.
    """

    def __init__(self, in_channels: int, inner_channels: int, num_layers: int = 1,
                 num_upsample: int | None = None, conv_cfg: dict[str, Any] | None = None,
                 norm_cfg: dict[str, Any] | None = None, init_cfg: Any = None,
                 **kwargs: Any) -> None:
        super().__init__(init_cfg)
        if num_upsample is None:
            num_upsample = num_layers
        if num_upsample > num_layers:
            raise ValueError(f"num_upsample must be at most num_layers={num_layers}, "
                             f"got {num_upsample}")
        self.num_layers = num_layers
        self.num_upsample = num_upsample
        self.conv = ModuleList(
            ConvModule(inner_channels if i else in_channels, inner_channels, 3, padding=1,
                       conv_cfg=conv_cfg, norm_cfg=norm_cfg, **kwargs)
            for i in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, inner_channels, H * 2**u, W * 2**u)``.

        ``u`` is ``num_upsample``.
        """
        for i, conv in enumerate(self.conv):
            x = conv(x)
            if i < self.num_upsample:
                x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return x
