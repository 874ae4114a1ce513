"""ResNeSt (Zhang et al., https://arxiv.org/abs/2004.08955)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastdet.cnn import build_conv_layer, build_norm_layer
from fastdet.runner import BaseModule
from fastdet.utils.types import Cfg

from ..builder import BACKBONES
from .resnet import ResNetV1d
from .resnext import Bottleneck as _Bottleneck

__all__ = ["Bottleneck", "RSoftmax", "ResNeSt", "SplitAttentionConv2d"]



class RSoftmax(nn.Module):
    """Softmax over the splits of each channel; a sigmoid where there is one split.

    Args:
        radix: number of splits.
        groups: number of groups.
    """

    def __init__(self, radix: int, groups: int) -> None:
        super().__init__()
        self.radix = radix
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, groups * radix * C, 1, 1)`` to weights ``(N, radix * groups * C)``."""
        if self.radix == 1:
            return x.flatten(1).sigmoid()
        x = x.view(x.shape[0], self.groups, self.radix, -1).transpose(1, 2)
        return x.softmax(dim=1).flatten(1)


class SplitAttentionConv2d(BaseModule):
    """A convolution into ``radix`` splits, and their sum weighted by attention over the splits.

    Args:
        in_channels: channels of the input.
        channels: channels of the output.
        kernel_size: size of the kernel.
        stride: stride of the convolution.
        padding: padding of the convolution.
        dilation: dilation of the convolution.
        groups: groups of one split.
        radix: number of splits.
        reduction_factor: how much narrower the attention's hidden layer is than the splits.
        conv_cfg: config of the convolution; ``None`` is ``Conv2d``.
        norm_cfg: config of the normalisations.
        dcn: config of a deformable convolution instead.
        init_cfg: the initialiser's config.

    Raises:
        ValueError: ``dcn`` meets a ``conv_cfg``.
    """

    def __init__(self, in_channels: int, channels: int, kernel_size: int | tuple[int, int],
                 stride: int | tuple[int, int] = 1, padding: int | tuple[int, int] = 0,
                 dilation: int | tuple[int, int] = 1, groups: int = 1, radix: int = 2,
                 reduction_factor: int = 4, conv_cfg: Cfg | None = None,
                 norm_cfg: Cfg = {"type": "BN"},
                 dcn: Cfg | None = None, init_cfg: Cfg | None = None) -> None:
        super().__init__(init_cfg)
        if dcn is not None and conv_cfg is not None:
            raise ValueError("conv_cfg must be None where dcn is given, "
                             f"got conv_cfg={conv_cfg!r} and dcn={dcn!r}")
        self.radix = radix
        self.groups = groups
        self.channels = channels
        self.dcn = dcn
        self.with_dcn = dcn is not None
        inter_channels = max(in_channels * radix // reduction_factor, 32)
        self.conv = build_conv_layer(conv_cfg if dcn is None else dcn, in_channels,
                                     channels * radix, kernel_size, stride=stride, padding=padding,
                                     dilation=dilation, groups=groups * radix, bias=False)
        self.norm0_name, norm0 = build_norm_layer(norm_cfg, channels * radix, postfix=0)
        self.add_module(self.norm0_name, norm0)
        self.relu = nn.ReLU(inplace=True)
        self.fc1 = build_conv_layer(None, channels, inter_channels, 1, groups=groups)
        self.norm1_name, norm1 = build_norm_layer(norm_cfg, inter_channels, postfix=1)
        self.add_module(self.norm1_name, norm1)
        self.fc2 = build_conv_layer(None, inter_channels, channels * radix, 1, groups=groups)
        self.rsoftmax = RSoftmax(radix, groups)

    @property
    def norm0(self) -> nn.Module:
        """The normalisation after the convolution."""
        return getattr(self, self.norm0_name)

    @property
    def norm1(self) -> nn.Module:
        """The normalisation inside the attention."""
        return getattr(self, self.norm1_name)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, channels, H / stride, W / stride)``."""
        x = self.relu(self.norm0(self.conv(x)))
        # Pooling and summing the splits commute; pooling first never makes a full-size sum.
        gap = F.adaptive_avg_pool2d(x, 1)
        gap = gap.unflatten(1, (self.radix, self.channels)).sum(dim=1)
        gap = self.relu(self.norm1(self.fc1(gap)))
        weights = self.rsoftmax(self.fc2(gap)).view(x.shape[0], self.radix, self.channels, 1, 1)
        first, *rest = zip(weights.unbind(1), x.unflatten(1, (self.radix, self.channels)).unbind(1))
        out = first[0] * first[1]
        for weight, split in rest:
            out = torch.addcmul(out, weight, split)
        return out


class Bottleneck(_Bottleneck):
    """Bottleneck with a split-attention convolution.

    Args:
        inplanes: channels of the input.
        planes: base width.
        groups: groups of one split.
        base_width: channels of one group in the first stage.
        base_channels: base width of the first stage.
        radix: number of splits.
        reduction_factor: how much narrower the attention's hidden layer is than the splits.
        avg_down_stride: put the stride into an average pooling behind the convolution.
        **kwargs: the other arguments of ResNet's bottleneck.
    """

    expansion = 4

    def __init__(self, inplanes: int, planes: int, groups: int = 1, base_width: int = 4,
                 base_channels: int = 64, radix: int = 2, reduction_factor: int = 4,
                 avg_down_stride: bool = True, **kwargs: Any) -> None:
        self.radix = radix
        self.reduction_factor = reduction_factor
        self.avg_down_stride = avg_down_stride
        super().__init__(inplanes, planes, groups, base_width, base_channels, **kwargs)

    def _add_conv2(self, width: int, groups: int) -> None:
        self.avg_down_stride = self.avg_down_stride and self.conv2_stride > 1
        dcn = None if self._conv2_cfg() is self.conv_cfg else self.dcn
        self.conv2 = SplitAttentionConv2d(
            width, width, 3, stride=1 if self.avg_down_stride else self.conv2_stride,
            padding=self.dilation, dilation=self.dilation, groups=groups, radix=self.radix,
            reduction_factor=self.reduction_factor, conv_cfg=self.conv_cfg,
            norm_cfg=self.norm_cfg, dcn=dcn)
        if self.avg_down_stride:
            self.avd_layer = nn.AvgPool2d(3, self.conv2_stride, padding=1)

    def _forward_conv2(self, x: Tensor) -> Tensor:
        x = self.conv2(x)
        return self.avd_layer(x) if self.avg_down_stride else x


@BACKBONES.register_module()
class ResNeSt(ResNetV1d):
    """ResNeSt backbone.

    Args:
        groups: groups of one split.
        base_width: channels of one group in the first stage.
        radix: number of splits.
        reduction_factor: how much narrower the attention's hidden layer is than the splits.
        avg_down_stride: put a bottleneck's stride into an average pooling.
        **kwargs: the arguments of :class:`ResNet`; ``depth`` is one of 50, 101, 152 and 200.
    """

    arch_settings: ClassVar[dict[Any, Any]] = {
        50: (Bottleneck, (3, 4, 6, 3)),
        101: (Bottleneck, (3, 4, 23, 3)),
        152: (Bottleneck, (3, 8, 36, 3)),
        200: (Bottleneck, (3, 24, 36, 3)),
    }

    def __init__(self, groups: int = 1, base_width: int = 4, radix: int = 2,
                 reduction_factor: int = 4, avg_down_stride: bool = True, **kwargs: Any) -> None:
        self.groups = groups
        self.base_width = base_width
        self.radix = radix
        self.reduction_factor = reduction_factor
        self.avg_down_stride = avg_down_stride
        super().__init__(**kwargs)

    def make_res_layer(self, **kwargs: Any) -> nn.Module:
        """Build one stage; the arguments are those of :class:`ResLayer`."""
        return super().make_res_layer(
            groups=self.groups, base_width=self.base_width, base_channels=self.base_channels,
            radix=self.radix, reduction_factor=self.reduction_factor,
            avg_down_stride=self.avg_down_stride, **kwargs)
