"""The dilated encoder of YOLOF (Chen et al., https://arxiv.org/abs/2103.09460)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from fastdet.cnn import ConvModule, caffe2_xavier_init, constant_init, is_norm, normal_init
from fastdet.utils.types import Cfg

from ..builder import NECKS
from ..utils.checks import check_last_map

__all__ = ["Bottleneck", "DilatedEncoder"]



class Bottleneck(nn.Module):
    """A 1x1, a dilated 3x3 and a 1x1 convolution, and the input added to them.

    Args:
        in_channels: channels of input and output.
        mid_channels: channels in between.
        dilation: dilation of the 3x3 convolution.
        norm_cfg: config of the normalisations.
    """

    def __init__(self, in_channels: int, mid_channels: int, dilation: int,
                 norm_cfg: Cfg = {"type": "BN", "requires_grad": True}
                 ) -> None:
        super().__init__()
        self.conv1 = ConvModule(in_channels, mid_channels, 1, norm_cfg=norm_cfg)
        self.conv2 = ConvModule(mid_channels, mid_channels, 3, padding=dilation,
                                dilation=dilation, norm_cfg=norm_cfg)
        self.conv3 = ConvModule(mid_channels, in_channels, 1, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to a map of the same shape."""
        return self.conv3(self.conv2(self.conv1(x))) + x


@NECKS.register_module()
class DilatedEncoder(nn.Module):
    """A lateral and a 3x3 convolution, then residual blocks of growing dilation.

    Args:
        in_channels: channels of the last map of the backbone.
        out_channels: channels of the output.
        block_mid_channels: channels inside the residual blocks.
        num_residual_blocks: number of residual blocks.
        block_dilations: dilation of each of them.

    Raises:
        ValueError: there are fewer dilations than blocks.
    """

    def __init__(self, in_channels: int, out_channels: int, block_mid_channels: int,
                 num_residual_blocks: int, block_dilations: Sequence[int]) -> None:
        super().__init__()
        if len(block_dilations) < num_residual_blocks:
            raise ValueError(f"block_dilations must have num_residual_blocks={num_residual_blocks} "
                             f"entries, got {block_dilations}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.block_mid_channels = block_mid_channels
        self.num_residual_blocks = num_residual_blocks
        self.block_dilations = block_dilations
        self.lateral_conv = nn.Conv2d(in_channels, out_channels, 1)
        self.lateral_norm = nn.BatchNorm2d(out_channels)
        self.fpn_conv = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.fpn_norm = nn.BatchNorm2d(out_channels)
        self.dilated_encoder_blocks = nn.Sequential(*(
            Bottleneck(out_channels, block_mid_channels, dilation)
            for dilation in block_dilations[:num_residual_blocks]))

    def init_weights(self) -> None:
        """Caffe2's Xavier in front, a normal distribution in the blocks, norms of one."""
        caffe2_xavier_init(self.lateral_conv)
        caffe2_xavier_init(self.fpn_conv)
        for m in self.modules():
            if is_norm(m):
                constant_init(m, 1)
        for m in self.dilated_encoder_blocks.modules():
            if isinstance(m, nn.Conv2d):
                normal_init(m, std=0.01)

    def forward(self, feature: Sequence[Tensor]) -> tuple[Tensor]:
        """Encode the last map.

        Args:
            feature: the backbone's maps; only the last ``(N, in_channels, H, W)`` is read.

        Returns:
            One map ``(N, out_channels, H, W)``.
        """
        check_last_map(self, feature, self.in_channels)
        out = self.lateral_norm(self.lateral_conv(feature[-1]))
        out = self.fpn_norm(self.fpn_conv(out))
        return (self.dilated_encoder_blocks(out),)
